"""Reserve calls that come at the same time share one BatchReserve: a call costs more than what it carries."""

import asyncio
from collections.abc import Sequence

import msgspec

from order_gateway.gateway.grpc.translation import effect_options, printable
from order_gateway.gateway.port import Call, GatewayFault, StockLine
from service_kit.batcher import Batcher, BatcherClosed, BatcherFull, BatcherSettings, BatchFailed
from stockwarden_client import CallOptions, WarehouseBusy, WarehouseClient, WarehouseError, line, warehouse_pb2

REQUESTS_MAX = 1000
"""What the contract allows in one BatchReserve."""

LINES_ALONE_MAX = 20


class _WaitingReserve(msgspec.Struct, frozen=True):
    order_id: str
    lines: Sequence[StockLine]
    ttl_seconds: float
    call: Call
    give_up_at: float


class SharedReserves:
    """Reserve for many callers; a lone one's call goes out as it is."""

    def __init__(self, client: WarehouseClient, settings: BatcherSettings | None = None) -> None:
        self._client = client
        bounds = settings or BatcherSettings()
        bounds = bounds.model_copy(update={"batch_size_max": min(bounds.batch_size_max, REQUESTS_MAX)})
        self.batcher: Batcher[_WaitingReserve, warehouse_pb2.Reservation] = Batcher(
            self._process, bounds, "reserve batcher"
        )
        self._is_started = False

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> warehouse_pb2.Reservation:
        """Hold stock for an order, within the call's deadline. Raises: WarehouseError, GatewayFault."""
        if not self._is_started:
            self._is_started = True
            self.batcher.start()
        seconds = call.deadline_seconds or self._client.settings.deadline_seconds
        give_up_at = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(give_up_at):
                return await self._among_others(_WaitingReserve(order_id, lines, ttl_seconds, call, give_up_at))
        except TimeoutError as error:
            raise GatewayFault("WAREHOUSE_TIMEOUT", "the warehouse did not answer in time") from error
        except BatchFailed as error:
            raise GatewayFault("WAREHOUSE_UNAVAILABLE", "what became of the hold is not known") from error
        except (BatcherFull, BatcherClosed) as error:
            raise GatewayFault("WAREHOUSE_OVERLOADED", "too many orders wait for the warehouse; try again") from error

    async def close(self) -> None:
        """Finish what is under way."""
        if self._is_started:
            await self.batcher.close()

    async def _among_others(self, wish: _WaitingReserve) -> warehouse_pb2.Reservation:
        try:
            return await self.batcher.submit(wish, wish.give_up_at)
        except WarehouseBusy:
            # Somebody keeps its stock locked: that is waited for here, and not by all who shared the call.
            return await self._alone(wish, max(wish.give_up_at - asyncio.get_running_loop().time(), 0.001))

    async def _process(self, wishes: Sequence[_WaitingReserve]) -> Sequence[warehouse_pb2.Reservation | Exception]:
        left = max(wish.give_up_at for wish in wishes) - asyncio.get_running_loop().time()
        try:
            # A refusal of a call of its own names what fits into a header; in a batch, all lines.
            if len(wishes) == 1 and len(wishes[0].lines) <= LINES_ALONE_MAX:
                return [await self._alone(wishes[0], max(left, 0.001))]
            options: CallOptions = {"deadline_seconds": max(left, 0.001), "traceparent": wishes[0].call.traceparent}
            return await self._client.batch_reserve(map(_request, wishes), **options)
        except WarehouseError as error:
            return [error] * len(wishes)

    async def _alone(self, wish: _WaitingReserve, seconds: float) -> warehouse_pb2.Reservation:
        lines = [line(one.product_id, one.warehouse_id, one.quantity) for one in wish.lines]
        options = effect_options(wish.call)
        options["deadline_seconds"] = seconds
        return await self._client.reserve(wish.order_id, lines, ttl_seconds=wish.ttl_seconds, **options)


def _request(wish: _WaitingReserve) -> warehouse_pb2.ReserveRequest:
    request = warehouse_pb2.ReserveRequest(
        request_id=wish.call.request_id,
        order_id=wish.order_id,
        lines=[line(one.product_id, one.warehouse_id, one.quantity) for one in wish.lines],
        correlation_id=wish.call.correlation_id,
        traceparent=wish.call.traceparent,
        actor=printable(wish.call.actor),
    )
    request.ttl.FromMicroseconds(round(wish.ttl_seconds * 1e6))
    return request
