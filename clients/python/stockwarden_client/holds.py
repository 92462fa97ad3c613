"""The calls of WarehouseService: holding stock, selling it, giving it back."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Unpack

from stockwarden_client.calling import Calling
from stockwarden_client.errors import WarehouseError
from stockwarden_client.messages import REQUESTS_MAX, duration, fits, given, parts, results_of, timestamp
from stockwarden_client.options import CallOptions, EffectOptions, kept_request_id, request_id_of
from stockwarden_client.v1 import warehouse_pb2
from stockwarden_client.v1.warehouse_pb2 import IfExpired, Line, Reservation


class HoldCalls(Calling):
    """Methods of `WarehouseClient`."""

    async def check_stock(self, items: Iterable[Line], **call: Unpack[CallOptions]) -> warehouse_pb2.CheckStockResponse:
        """What is available now. Advice only: nothing is held."""
        return await self._call(lambda to: to.warehouse.CheckStock, warehouse_pb2.CheckStockRequest(items=items), call)

    async def reserve(
        self,
        order_id: str,
        lines: Iterable[Line],
        *,
        ttl_seconds: float | None = None,
        expires_at: datetime | None = None,
        allow_partial: bool = False,
        **call: Unpack[EffectOptions],
    ) -> Reservation:
        """Hold stock for an order, for `ttl_seconds` (None: the server's default), or until `expires_at`.

        Args:
            expires_at: with a time zone; the warehouse compares it with its database's clock.
            request_id: required; keep it with the order. An order may have several holds, so the order alone does not
                tell a repetition from a further hold; the same request id does, also when another process sends it.

        Raises: InsufficientStock, ProductNotFound, WarehouseNotFound, StockLevelNotFound, ReserveCancelled,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.ReserveRequest(
            request_id=kept_request_id(call),
            order_id=order_id,
            lines=lines,
            ttl=None if ttl_seconds is None else duration(ttl_seconds),
            expires_at=None if expires_at is None else timestamp(expires_at),
            allow_partial=allow_partial,
        )
        return (await self._call(lambda to: to.warehouse.Reserve, request, call)).reservation

    async def batch_reserve(
        self, requests: Iterable[warehouse_pb2.ReserveRequest], **call: Unpack[CallOptions]
    ) -> list[Reservation | WarehouseError]:
        """Many independent holds; per request the hold or why there is none. Each needs a request_id.

        It is one call unless the requests or the answer could be too long for a message. If one of several calls fails,
        its requests have that failure as their result.

        Raises: WarehouseUnavailable, also if the answer does not tell of each request; or another WarehouseError.
        """
        requests = list(requests)
        whole = warehouse_pb2.BatchReserveRequest(requests=requests)
        if fits(whole, self.settings.message_size_max_bytes):
            return await self._batch_reserve(whole, call)
        results: list[Reservation | WarehouseError] = []
        for part in parts(requests, self.settings.message_size_max_bytes):
            try:
                results += await self._batch_reserve(warehouse_pb2.BatchReserveRequest(requests=part), call)
            except WarehouseError as error:
                results += [error] * len(part)
        return results

    async def _batch_reserve(
        self, request: warehouse_pb2.BatchReserveRequest, call: CallOptions
    ) -> list[Reservation | WarehouseError]:
        response = await self._call(lambda to: to.warehouse.BatchReserve, request, call)
        return results_of(request, response)

    async def commit(
        self,
        *,
        reservation_id: str | None = None,
        order_id: str | None = None,
        lines: Iterable[Line] = (),
        reacquire: bool = False,
        **call: Unpack[CallOptions],
    ) -> list[Reservation]:
        """Sell what a reservation, or all open holds of an order, hold; only `lines` of it if given.

        What is sold already is answered as it is, whatever the request id: repeating is safe.

        Args:
            reacquire: if the hold has expired, take the stock again where it is still there.

        Raises: ReservationNotFound, OrderNotFound, ReservationExpired, ReservationCancelled, InsufficientStock,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.CommitRequest(
            request_id=request_id_of(call),
            lines=lines,
            **given(reservation_id=reservation_id, order_id=order_id),
            if_expired=IfExpired.IF_EXPIRED_REACQUIRE if reacquire else IfExpired.IF_EXPIRED_REFUSE,
        )
        return list((await self._call(lambda to: to.warehouse.Commit, request, call)).reservations)

    async def cancel(
        self,
        *,
        reservation_id: str | None = None,
        order_id: str | None = None,
        reserve_request_id: str | None = None,
        reason: str = "",
        **call: Unpack[CallOptions],
    ) -> list[Reservation]:
        """Give held stock back: one reservation, all of an order, or what a Reserve took or would take later.

        Raises: ReservationNotFound (by reservation_id), ReservationCommitted, RequestIdReused, or another
            WarehouseError.
        """
        request = warehouse_pb2.CancelRequest(
            request_id=request_id_of(call),
            reason=reason,
            **given(reservation_id=reservation_id, order_id=order_id, reserve_request_id=reserve_request_id),
        )
        return list((await self._call(lambda to: to.warehouse.Cancel, request, call)).reservations)

    async def extend(self, reservation_id: str, ttl_seconds: float, **call: Unpack[CallOptions]) -> Reservation:
        """Let a hold end `ttl_seconds` from now, or when it would have ended if that is later.

        Raises: ReservationNotFound, ReservationExpired, ReservationCommitted, ReservationCancelled,
            RequestIdReused, or another WarehouseError.
        """
        request = warehouse_pb2.ExtendRequest(
            request_id=request_id_of(call), reservation_id=reservation_id, ttl=duration(ttl_seconds)
        )
        return (await self._call(lambda to: to.warehouse.Extend, request, call)).reservation

    async def get_reservation(self, reservation_id: str, **call: Unpack[CallOptions]) -> Reservation:
        """One reservation as it is now. Raises: ReservationNotFound, or another WarehouseError."""
        request = warehouse_pb2.GetReservationRequest(reservation_id=reservation_id)
        return (await self._call(lambda to: to.warehouse.GetReservation, request, call)).reservation

    async def list_reservations(
        self, request: warehouse_pb2.ListReservationsRequest, **call: Unpack[CallOptions]
    ) -> warehouse_pb2.ListReservationsResponse:
        """A page of reservations by order, product or state."""
        return await self._call(lambda to: to.warehouse.ListReservations, request, call)

    async def get_caller(self, **call: Unpack[CallOptions]) -> warehouse_pb2.GetCallerResponse:
        """The name and the role of this client's key, and the time by which holds expire."""
        return await self._call(lambda to: to.warehouse.GetCaller, warehouse_pb2.GetCallerRequest(), call)

    async def get_requests(
        self, request_ids: Sequence[str], **call: Unpack[CallOptions]
    ) -> list[warehouse_pb2.RequestOutcome]:
        """What became of the calls with these request ids (different ones, of any number), in the order asked for.

        At most 1,000 are asked for at once; what is in one answer of the server is as of one moment.
        """
        outcomes: list[warehouse_pb2.RequestOutcome] = []
        while len(outcomes) < len(request_ids):
            wanted = request_ids[len(outcomes) : len(outcomes) + REQUESTS_MAX]
            request = warehouse_pb2.BatchGetRequestsRequest(request_ids=wanted)
            found = (await self._call(lambda to: to.warehouse.BatchGetRequests, request, call)).outcomes
            if not found:
                raise WarehouseError("the server answered with no outcome at all")
            outcomes += found
        return outcomes

    async def sweep_expired(self, **call: Unpack[CallOptions]) -> int:
        """Expire overdue holds now; how many there were."""
        return (
            await self._call(lambda to: to.warehouse.SweepExpired, warehouse_pb2.SweepExpiredRequest(), call)
        ).expired
