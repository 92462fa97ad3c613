"""What most people would write: Reserve as one transaction per call, on the same tables, with the same rows.

It is meant to be a decent one: no ORM, a warm pool, no needless statement, READ COMMITTED, locks in key order.

`python -m benchmarks.naive HOST:PORT` with WAREHOUSE_DATABASE_URL and NAIVE_CONNECTIONS in the environment.
"""

import hashlib
import os
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import aiomysql
import grpc
import msgspec
import uvloop
from sqlalchemy.engine import make_url

from benchmarks.serving import Context, serve
from stockwarden_client.v1 import warehouse_pb2 as pb


class SoldOut(Exception):
    """Some line asks for more than is free."""


@dataclass(frozen=True)
class Hold:
    """A reservation about to be written."""

    reservation_id: str
    event_id: str
    order_id: str
    created_at: datetime
    expires_at: datetime
    lines: tuple[tuple[int, int, int], ...]
    """(product_id, warehouse_id, quantity), by key."""

    def as_json(self) -> str:
        """How the request id's answer and the event are stored."""
        return msgspec.json.encode(self).decode()

    def as_message(self) -> pb.Reservation:
        """How the caller gets it."""
        lines = [
            pb.ReservationLine(product_id=product, warehouse_id=warehouse, quantity=units, requested_quantity=units)
            for product, warehouse, units in self.lines
        ]
        message = pb.Reservation(
            reservation_id=self.reservation_id,
            order_id=self.order_id,
            state=pb.RESERVATION_STATE_RESERVED,
            lines=lines,
        )
        message.created_at.FromDatetime(self.created_at)
        message.expires_at.FromDatetime(self.expires_at)
        return message


class NaiveServer:
    """Reserve, and nothing else."""

    def __init__(self, pool: aiomysql.Pool) -> None:
        self._pool = pool

    async def reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        """One call, one transaction."""
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            try:
                hold = await self._reserve(cursor, request)
                await connection.commit()
            except SoldOut as refusal:
                await connection.rollback()
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refusal))
            except BaseException:
                await connection.rollback()
                raise
        return pb.ReserveResponse(reservation=hold.as_message())

    async def _reserve(self, cursor: Any, request: pb.ReserveRequest) -> Hold:
        request_hash = hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=16).hexdigest()
        await cursor.execute("SELECT answer FROM request_ids WHERE request_id = %s", (request.request_id,))
        if known := await cursor.fetchone():
            return msgspec.json.decode(known[0], type=Hold)
        wanted: Counter[tuple[int, int]] = Counter()
        for line in request.lines:
            wanted[line.product_id, line.warehouse_id] += line.quantity
        hold = None
        for (product_id, warehouse_id), units in sorted(wanted.items()):
            await cursor.execute(
                "SELECT on_hand, reserved, version, UTC_TIMESTAMP(6) FROM stock_levels"
                " WHERE product_id = %s AND warehouse_id = %s FOR UPDATE",
                (product_id, warehouse_id),
            )
            on_hand, reserved, version, now = await cursor.fetchone()
            if on_hand - reserved < units:
                raise SoldOut(f"{on_hand - reserved} of product {product_id} are free, {units} were asked for")
            if hold is None:
                hold = _new_hold(request, wanted, now)
            await self._hold_line(cursor, hold, (product_id, warehouse_id, units), (on_hand, reserved, version))
        assert hold is not None
        await self._record(cursor, hold, request.request_id, request_hash)
        return hold

    async def _hold_line(
        self, cursor: Any, hold: Hold, line: tuple[int, int, int], level: tuple[int, int, int]
    ) -> None:
        product_id, warehouse_id, units = line
        on_hand, reserved, version = level
        await cursor.execute(
            "UPDATE stock_levels SET reserved = %s, version = %s, updated_at = %s"
            " WHERE product_id = %s AND warehouse_id = %s",
            (reserved + units, version + 1, hold.created_at, product_id, warehouse_id),
        )
        await cursor.execute(
            "INSERT INTO movements (product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,"
            " reserved_before, reserved_after, reference, actor, event_id, created_at)"
            " VALUES (%s, %s, %s, 'RESERVED', %s, %s, %s, %s, %s, %s, 'anonymous', %s, %s)",
            (
                product_id,
                warehouse_id,
                version + 1,
                units,
                on_hand,
                on_hand,
                reserved,
                reserved + units,
                hold.reservation_id,
                hold.event_id,
                hold.created_at,
            ),
        )
        await cursor.execute(
            "INSERT INTO reservation_lines"
            " (reservation_id, product_id, warehouse_id, quantity, requested_quantity, committed_quantity)"
            " VALUES (%s, %s, %s, %s, %s, 0)",
            (hold.reservation_id, product_id, warehouse_id, units, units),
        )

    async def _record(self, cursor: Any, hold: Hold, request_id: str, request_hash: str) -> None:
        answer = hold.as_json()
        await cursor.execute(
            "INSERT INTO reservations (reservation_id, order_id, order_sequence, state, expires_at, created_at)"
            " VALUES (%s, %s, 1, 'RESERVED', %s, %s)",
            (hold.reservation_id, hold.order_id, hold.expires_at, hold.created_at),
        )
        await cursor.execute(
            "INSERT INTO request_ids (request_id, fingerprint, answer, created_at) VALUES (%s, UNHEX(%s), %s, %s)",
            (request_id, request_hash, answer, hold.created_at),
        )
        await cursor.execute(
            "INSERT INTO outbox (event_id, type, subject, data, created_at) VALUES (%s, %s, %s, %s, %s)",
            (hold.event_id, "warehouse.reservation.reserved", hold.order_id, answer, hold.created_at),
        )


def _new_hold(request: pb.ReserveRequest, wanted: Counter[tuple[int, int]], now: datetime) -> Hold:
    return Hold(
        reservation_id=_time_ordered_id(),
        event_id=_time_ordered_id(),
        order_id=request.order_id,
        created_at=now,
        expires_at=now + timedelta(seconds=request.ttl.seconds),
        lines=tuple((product, warehouse, units) for (product, warehouse), units in sorted(wanted.items())),
    )


def _time_ordered_id() -> str:
    """As a UUIDv7, so that rows are appended to their tables and not strewn over them."""
    milliseconds = time.time_ns() // 1_000_000
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | uuid.uuid4().int & (1 << 76) - 1))


async def main(address: str) -> None:
    """Serve until SIGTERM."""
    url = make_url(os.environ["WAREHOUSE_DATABASE_URL"])
    connections = int(os.environ["NAIVE_CONNECTIONS"])
    pool = await aiomysql.create_pool(
        minsize=connections,
        maxsize=connections,
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        db=url.database,
        charset="utf8mb4",
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )
    try:
        await serve({"Reserve": (NaiveServer(pool).reserve, pb.ReserveRequest)}, address)
    finally:
        pool.close()
        await pool.wait_closed()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
