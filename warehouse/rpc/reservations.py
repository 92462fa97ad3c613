"""The gRPC servicer of holds: checks what comes in, hands it to the batcher, tells what became of it."""

import asyncio
from collections.abc import Sequence

from stockwarden_client.v1 import warehouse_pb2 as pb
from stockwarden_client.v1.warehouse_pb2_grpc import WarehouseServiceServicer
from warehouse.auth import Role
from warehouse.reading.paging import make_token, page_size, read_token
from warehouse.reading.queries import StockQueries
from warehouse.rpc import wire
from warehouse.rpc.edge import Caller, Edge, rpc
from warehouse.rpc.requests import RequestReader
from warehouse.rpc.status import status_of_error, status_of_refusal
from warehouse.settings import Limits
from warehouse.stock.commands import Answer, Line
from warehouse.stock.records import Level, LevelKey, State
from warehouse.stock.refusals import Refusal, reservation_not_found
from warehouse.stock.sizes import (
    LIST_ENVELOPE_BYTES,
    NAMED_LINES,
    batch_answer_bytes,
    lines_at_most,
    that_fit,
)
from warehouse.validation import BATCH_MAX, CALL_LINES_MAX, ID_MAX, Checks
from warehouse.writing.expiry import Sweeper
from warehouse.writing.store import LevelBatcher, StockBatcher

Outcome = Answer | Refusal | Exception
Begun = asyncio.Future[Answer | Refusal] | Exception
"""A request of a batch that is under way, or why it is not."""


class Reservations(WarehouseServiceServicer):
    """WarehouseService; the contract is documented in protos/warehouse/v1/warehouse.proto."""

    def __init__(
        self,
        edge: Edge,
        batcher: StockBatcher,
        levels: LevelBatcher,
        queries: StockQueries,
        requests: RequestReader,
        sweeper: Sweeper,
        limits: Limits,
        message_bytes_max: int,
    ) -> None:
        self.edge = edge
        self._batcher = batcher
        self._levels = levels
        self._queries = queries
        self._requests = requests
        self._sweeper = sweeper
        self._limits = limits
        self._message_bytes_max = message_bytes_max

    @rpc(Role.READER)
    async def CheckStock(self, request: pb.CheckStockRequest, caller: Caller) -> pb.CheckStockResponse:
        checks = Checks()
        checks.count("items", len(request.items), CALL_LINES_MAX)
        totals = wire.lines_of(checks, "items", request.items)
        checks.done()
        keys = tuple(line.key for line in totals)
        return _availability(request, totals, await self._levels.submit(keys, caller.deadline))

    @rpc(Role.ORDER)
    async def Reserve(self, request: pb.ReserveRequest, caller: Caller) -> pb.ReserveResponse | Refusal:
        command = wire.reserve(request, caller, self._limits)
        answer = await self._batcher.submit(command, caller.deadline)
        if isinstance(answer, Refusal):
            return answer
        response = pb.ReserveResponse()
        wire.tell_reservation(answer.reservations[0], response.reservation)
        return response

    @rpc(Role.ORDER)
    async def BatchReserve(self, request: pb.BatchReserveRequest, caller: Caller) -> pb.BatchReserveResponse:
        checks = Checks()
        checks.count("requests", len(request.requests), BATCH_MAX)
        self._must_fit(checks, request)
        checks.done()
        outcomes = await _outcomes([self._begin(item, caller) for item in request.requests])
        self.edge.note_refusals(request.requests, outcomes)
        return _batch_answer(outcomes, self._message_bytes_max)

    def _must_fit(self, checks: Checks, request: pb.BatchReserveRequest) -> None:
        """Later there would be holds that nobody is told of."""
        size, count = request.ByteSize(), len(request.requests)
        if batch_answer_bytes(size, count, lines_at_most(size)) <= self._message_bytes_max:
            # Most of them: their lines need not be counted.
            return
        needed = batch_answer_bytes(size, count, sum(len(item.lines) for item in request.requests))
        if needed > self._message_bytes_max:
            what = f"the answer could take {needed:,} bytes, more than the {self._message_bytes_max:,} of a message"
            checks.fail("requests", f"{what}: send fewer at a time")

    def _begin(self, request: pb.ReserveRequest, caller: Caller) -> Begun:
        try:
            # One that had to wait for somebody else's locks would let all the others of the call wait with it.
            return self._batcher.submit(wire.reserve(request, caller, self._limits), caller.deadline, is_patient=False)
        except Exception as error:
            return error

    @rpc(Role.ORDER)
    async def Commit(self, request: pb.CommitRequest, caller: Caller) -> pb.CommitResponse | Refusal:
        answer = await self._batcher.submit(wire.commit(request, caller), caller.deadline)
        if isinstance(answer, Refusal):
            return answer
        response = pb.CommitResponse()
        for item in answer.reservations:
            wire.tell_reservation(item, response.reservations.add())
        return response

    @rpc(Role.ORDER)
    async def Cancel(self, request: pb.CancelRequest, caller: Caller) -> pb.CancelResponse | Refusal:
        answer = await self._batcher.submit(wire.cancel(request, caller), caller.deadline)
        if isinstance(answer, Refusal):
            return answer
        response = pb.CancelResponse()
        for item in answer.reservations:
            wire.tell_reservation(item, response.reservations.add())
        return response

    @rpc(Role.ORDER)
    async def Extend(self, request: pb.ExtendRequest, caller: Caller) -> pb.ExtendResponse | Refusal:
        command = wire.extend(request, caller, self._limits)
        answer = await self._batcher.submit(command, caller.deadline)
        if isinstance(answer, Refusal):
            return answer
        return pb.ExtendResponse(reservation=wire.reservation(answer.reservations[0]))

    @rpc(Role.READER)
    async def GetReservation(
        self, request: pb.GetReservationRequest, _caller: Caller
    ) -> pb.GetReservationResponse | Refusal:
        checks = Checks()
        checks.opaque_id("reservation_id", request.reservation_id)
        checks.done()
        found = await self._queries.reservation(request.reservation_id)
        if found is None:
            return reservation_not_found(request.reservation_id)
        return pb.GetReservationResponse(reservation=wire.reservation(found))

    @rpc(Role.READER)
    async def ListReservations(
        self, request: pb.ListReservationsRequest, _caller: Caller
    ) -> pb.ListReservationsResponse:
        checks = Checks()
        checks.opaque_id("order_id", request.order_id, required=False)
        checks.number("product_id", request.product_id, 0, ID_MAX)
        state = wire.state_filter(checks, request.state)
        since = (
            wire.since_filter(checks, request.created_since, "created_since")
            if request.HasField("created_since")
            else None
        )
        if not (request.order_id or request.product_id or request.state or since is not None):
            checks.fail("order_id", "give at least one of order_id, product_id, state and created_since")
        checks.done()
        return await self._list(request, state, since)

    async def _list(
        self, request: pb.ListReservationsRequest, state: State | None, since: int | None
    ) -> pb.ListReservationsResponse:
        size = page_size(request.page_size, self._limits.page_size_default)
        filters = (request.order_id, request.product_id, request.state, *(() if since is None else (since,)))
        by_expiry = state is not None and not (request.order_id or request.product_id or since is not None)
        cursor = read_token(request.page_token, filters, (int, str) if by_expiry else (str,))
        if state is not None and by_expiry:
            found = await self._queries.reservations_by_expiry(state, cursor, size + 1)
        else:
            before = str(cursor[0]) if cursor else ""
            found = await self._queries.reservations_newest_first(
                request.order_id, request.product_id, state, before, size + 1, since
            )
        page = that_fit([wire.reservation(item) for item in found[:size]], self._message_bytes_max)
        token = ""
        if len(found) > len(page):
            last = found[len(page) - 1]
            key = (last.expires_at, last.reservation_id) if by_expiry else (last.reservation_id,)
            token = make_token(filters, key)
        return pb.ListReservationsResponse(reservations=page, next_page_token=token)

    @rpc(Role.READER)
    async def BatchGetRequests(
        self, request: pb.BatchGetRequestsRequest, _caller: Caller
    ) -> pb.BatchGetRequestsResponse:
        checks = Checks()
        checks.count("request_ids", len(request.request_ids), BATCH_MAX)
        for position, request_id in enumerate(request.request_ids):
            checks.opaque_id(f"request_ids[{position}]", request_id)
        if len(set(request.request_ids)) < len(request.request_ids):
            checks.fail("request_ids", "must name each request id once")
        checks.done()
        bytes_max = min(self._limits.outcomes_bytes_max, self._message_bytes_max - LIST_ENVELOPE_BYTES)
        outcomes = await self._requests.outcomes(request.request_ids, bytes_max)
        return pb.BatchGetRequestsResponse(outcomes=outcomes)

    @rpc(Role.READER)
    async def GetCaller(self, _request: pb.GetCallerRequest, caller: Caller) -> pb.GetCallerResponse:
        now = wire.timestamp(await self._queries.clock())
        return pb.GetCallerResponse(name=caller.key_name, role=caller.role, now=now)

    @rpc(Role.ADMIN)
    async def SweepExpired(self, _request: pb.SweepExpiredRequest, caller: Caller) -> pb.SweepExpiredResponse:
        return pb.SweepExpiredResponse(expired=await self._sweeper.sweep(caller.deadline))


def _availability(
    request: pb.CheckStockRequest, totals: tuple[Line, ...], levels: dict[LevelKey, Level]
) -> pb.CheckStockResponse:
    wanted = {line.key: line.quantity for line in totals}
    items = []
    for item in request.items:
        key = (item.product_id, item.warehouse_id)
        level = levels.get(key)
        available = level.available if level is not None else 0
        items.append(
            pb.ItemAvailability(
                product_id=item.product_id,
                warehouse_id=item.warehouse_id,
                quantity=item.quantity,
                available=available,
                sufficient=available >= wanted[key],
                found=level is not None,
            )
        )
    return pb.CheckStockResponse(items=items, sufficient=all(item.sufficient for item in items))


async def _outcomes(begun: Sequence[Begun]) -> list[Outcome]:
    """What became of each. Whoever waits for it no longer waits for none of them: what can still be dropped is.

    They mostly end together: who has waited for the first one finds the others done. (asyncio.gather would have each of
    them call back, which takes about as long as to make its answer.)
    """
    outcomes: list[Outcome] = []
    try:
        for item in begun:
            try:
                outcomes.append(item if isinstance(item, Exception) else await item)
            except Exception as error:
                outcomes.append(error)
    finally:
        for item in begun[len(outcomes) :]:
            if isinstance(item, asyncio.Future):
                item.cancel()
    return outcomes


def _batch_answer(outcomes: Sequence[Outcome], message_bytes_max: int) -> pb.BatchReserveResponse:
    """All results, and as many lines named in the refused ones as there is room for."""
    for named_max in NAMED_LINES:
        answer = pb.BatchReserveResponse()
        for outcome in outcomes:
            _tell_result(outcome, answer.results.add(), named_max)
        if answer.ByteSize() <= message_bytes_max:
            break
    return answer


def _tell_result(outcome: Outcome, result: pb.BatchReserveResult, named_max: int) -> None:
    if isinstance(outcome, Answer):
        wire.tell_reservation(outcome.reservations[0], result.reservation)
    elif isinstance(outcome, Refusal):
        result.error.CopyFrom(status_of_refusal(outcome, named_max))
    else:
        result.error.CopyFrom(status_of_error(outcome, named_max))
