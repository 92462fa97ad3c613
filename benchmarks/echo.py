"""The upper bound: a server on the same gRPC stack that answers with the same messages and does nothing.

`python -m benchmarks.echo HOST:PORT`
"""

import sys
import uuid
from collections.abc import Iterable

import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.serving import Context, Method, serve
from stockwarden_client.v1 import warehouse_pb2 as pb

_NOW = Timestamp(seconds=1_800_000_000)
_ID = str(uuid.uuid4())


async def reserve(request: pb.ReserveRequest, _context: Context) -> pb.ReserveResponse:
    """A hold made of the request."""
    return pb.ReserveResponse(reservation=_held(request.order_id, request.lines))


async def commit(request: pb.CommitRequest, _context: Context) -> pb.CommitResponse:
    """One line, committed."""
    return pb.CommitResponse(reservations=[_closed(request.reservation_id, pb.RESERVATION_STATE_COMMITTED)])


async def cancel(request: pb.CancelRequest, _context: Context) -> pb.CancelResponse:
    """One line, cancelled."""
    return pb.CancelResponse(reservations=[_closed(request.reservation_id, pb.RESERVATION_STATE_CANCELLED)])


async def check_stock(request: pb.CheckStockRequest, _context: Context) -> pb.CheckStockResponse:
    """Plenty of everything."""
    items = [
        pb.ItemAvailability(
            product_id=item.product_id,
            warehouse_id=item.warehouse_id,
            quantity=item.quantity,
            available=1_000_000,
            sufficient=True,
            found=True,
        )
        for item in request.items
    ]
    return pb.CheckStockResponse(items=items, sufficient=True)


async def batch_reserve(request: pb.BatchReserveRequest, _context: Context) -> pb.BatchReserveResponse:
    """A hold for each request."""
    held = [_held(one.order_id, one.lines) for one in request.requests]
    return pb.BatchReserveResponse(results=[pb.BatchReserveResult(reservation=one) for one in held])


METHODS: dict[str, Method] = {
    "Reserve": (reserve, pb.ReserveRequest),
    "Commit": (commit, pb.CommitRequest),
    "Cancel": (cancel, pb.CancelRequest),
    "CheckStock": (check_stock, pb.CheckStockRequest),
    "BatchReserve": (batch_reserve, pb.BatchReserveRequest),
}


def _held(order_id: str, lines: Iterable[pb.Line]) -> pb.Reservation:
    held = [
        pb.ReservationLine(
            product_id=line.product_id,
            warehouse_id=line.warehouse_id,
            quantity=line.quantity,
            requested_quantity=line.quantity,
        )
        for line in lines
    ]
    return pb.Reservation(
        reservation_id=_ID,
        order_id=order_id,
        state=pb.RESERVATION_STATE_RESERVED,
        lines=held,
        expires_at=_NOW,
        created_at=_NOW,
    )


def _closed(reservation_id: str, state: pb.ReservationState.ValueType) -> pb.Reservation:
    line = pb.ReservationLine(product_id=1, warehouse_id=1, quantity=1, requested_quantity=1)
    return pb.Reservation(
        reservation_id=reservation_id,
        order_id=_ID,
        state=state,
        lines=[line],
        expires_at=_NOW,
        created_at=_NOW,
        closed_at=_NOW,
    )


if __name__ == "__main__":
    uvloop.run(serve(METHODS, sys.argv[1]))
