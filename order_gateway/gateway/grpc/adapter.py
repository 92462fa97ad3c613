"""The warehouse over gRPC, through its client library: one object, and one place where it is called."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta

from order_gateway.gateway.grpc.messages import (
    availability_of,
    catalogue_product_of,
    hold_of,
    holds_of,
    instant_of,
    level_of,
    outcome_of,
    product_of,
    state_of,
)
from order_gateway.gateway.grpc.shared_reserves import SharedReserves
from order_gateway.gateway.grpc.translation import (
    call_options,
    denial,
    effect_options,
    or_refusal,
    or_typed_refusal,
    sure,
    translating,
    unknown,
)
from order_gateway.gateway.port import (
    Call,
    Caller,
    CataloguePage,
    Done,
    GatewayFault,
    Hold,
    HoldState,
    Outcome,
    Product,
    Refusal,
    StockLine,
)
from order_gateway.gateway.stock import Availability, CatalogueProduct, Level, LevelKey, ProductPage
from service_kit.background import Watched
from service_kit.batcher import BatcherSettings
from service_kit.times import EPOCH
from stockwarden_client import (
    ClientSettings,
    MessageTooLarge,
    PermissionDenied,
    ProductNotFound,
    ReservationNotFound,
    Unauthenticated,
    WarehouseClient,
    WarehouseError,
    line,
    stock_pb2,
    warehouse_pb2,
)

Observe = Callable[[str, list[tuple[str, str]]], AbstractContextManager[None]]
PAGE_SIZE = 1000


class GrpcGateway:
    """WarehouseGateway over a WarehouseClient. Close it before the client.

    Attributes:
        clock_ahead: how far the clock by which holds expire is ahead of this service's; orders' holds are told by the
            latter.
    """

    def __init__(self, client: WarehouseClient, batches: BatcherSettings | None = None) -> None:
        self._client = client
        self.clock_ahead = timedelta(0)
        self._epoch = EPOCH
        self._reserving = SharedReserves(client, batches)

    @property
    def batchers(self) -> tuple[Watched, ...]:
        """What goes on in the background."""
        return (self._reserving.batcher,)

    def set_clock_ahead(self, ahead: timedelta) -> None:
        """Take note of how far the warehouse's clock is ahead."""
        self.clock_ahead = ahead
        self._epoch = EPOCH - ahead

    async def close(self) -> None:
        """Finish what is under way."""
        await self._reserving.close()

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order; its instants are told by this service's own clock. Raises: GatewayFault."""
        answer = await or_refusal(self._reserving.reserve(order_id, lines, ttl_seconds, call))
        return answer if isinstance(answer, Refusal) else hold_of(answer, self._epoch)

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        """Where a hold stands now; None: the warehouse does not know it. Raises: GatewayFault."""
        try:
            with translating():
                return state_of(await self._client.get_reservation(reservation_id, **call_options(call)))
        except ReservationNotFound:
            return None

    async def commit(self, reservation_id: str, call: Call) -> Done | Refusal:
        """Sell what is held, taking it again where the hold has expired. Raises: GatewayFault."""
        answer = await or_refusal(
            self._client.commit(reservation_id=reservation_id, reacquire=True, **call_options(call))
        )
        return answer if isinstance(answer, Refusal) else Done()

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Done | Refusal:
        """Give back what a Reserve took, or would take later. Raises: GatewayFault."""
        answer = await or_refusal(
            self._client.cancel(reserve_request_id=reserve_request_id, reason=reason, **call_options(call))
        )
        return answer if isinstance(answer, Refusal) else Done()

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Done:
        """Put sold units back on hand. Raises: GatewayFault."""
        level = (line.product_id, line.warehouse_id, line.quantity)
        asked = self._client.add_stock(*level, returned=True, reference=reference, **effect_options(call))
        answer = await or_refusal(asked)
        if isinstance(answer, Refusal):
            raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not take returned stock: {answer.code}")
        return Done()

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """The products that exist, by id. Raises: GatewayFault."""
        with translating():
            found, _missing = await self._client.get_products(product_ids, **call_options(call))
        return {product_id: product_of(product) for product_id, product in found.items()}

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product now; empty for a product that does not exist. Raises: GatewayFault."""
        try:
            with translating():
                levels = await self._client.list_inventory(product_id, **call_options(call))
        except ProductNotFound:
            return ()
        return tuple(StockLine(level.product_id, level.warehouse_id, level.available) for level in levels)

    async def level(self, key: LevelKey, call: Call) -> Level | Refusal:
        """One stock level. Raises: GatewayFault."""
        asked = self._client.get_inventory(key.product_id, key.warehouse_id, **call_options(call))
        answer = await or_typed_refusal(asked)
        return answer if isinstance(answer, Refusal) else level_of(answer)

    async def levels(self, keys: Sequence[LevelKey], call: Call) -> tuple[list[Level], list[LevelKey]]:
        """The stock levels that exist, and the keys of those that don't. Raises: GatewayFault."""
        pairs = [(key.product_id, key.warehouse_id) for key in keys]
        answer = sure(await or_refusal(self._client.batch_get_inventory(pairs, **call_options(call))))
        missing = [LevelKey(key.product_id, key.warehouse_id) for key in answer.missing]
        return [level_of(level) for level in answer.stock_levels], missing

    async def check(self, lines: Sequence[StockLine], call: Call) -> list[Availability]:
        """Whether that much is free now, line by line. Raises: GatewayFault."""
        answer = sure(await or_refusal(self._client.check_stock(_lines(lines), **call_options(call))))
        return [availability_of(wish, item) for wish, item in zip(lines, answer.items, strict=True)]

    async def count(
        self, key: LevelKey, quantity: int, reserved: int | None, notes: str, call: Call
    ) -> Level | Refusal:
        """Set the counted quantity. Raises: GatewayFault."""
        request = stock_pb2.UpdateInventoryRequest(
            product_id=key.product_id, warehouse_id=key.warehouse_id, on_hand=quantity, reserved=reserved, notes=notes
        )
        answer = await or_typed_refusal(self._client.update_inventory(request, **call_options(call)))
        return answer if isinstance(answer, Refusal) else level_of(answer.stock_level)

    async def reserve_until(
        self, order_id: str, lines: Sequence[StockLine], until: datetime, call: Call
    ) -> Hold | Refusal:
        """Hold stock until an instant of the warehouse's clock. Raises: GatewayFault."""
        return await _hold(self._client.reserve(order_id, _lines(lines), expires_at=until, **effect_options(call)))

    async def hold(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """One hold, as it is now. Raises: GatewayFault."""
        return await _hold(self._client.get_reservation(reservation_id, **call_options(call)))

    async def sell(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """Sell what is held, unless its time is over. Raises: GatewayFault."""
        return await _only_hold(self._client.commit(reservation_id=reservation_id, **call_options(call)))

    async def release(self, reservation_id: str, reason: str, call: Call) -> Hold | Refusal:
        """Give back what is held. Raises: GatewayFault."""
        asked = self._client.cancel(reservation_id=reservation_id, reason=reason, **call_options(call))
        return await _only_hold(asked)

    async def sweep(self, call: Call) -> int:
        """End overdue holds now; how many there were. Raises: GatewayFault."""
        return sure(await or_refusal(self._client.sweep_expired(**call_options(call))))

    async def product(self, product_id: int, call: Call) -> CatalogueProduct | Refusal:
        """One product. Raises: GatewayFault."""
        found, _missing = sure(await or_refusal(self._client.get_products([product_id], **call_options(call))))
        if product_id not in found:
            return Refusal("PRODUCT_NOT_FOUND", f"there is no product {product_id}", ({"product_id": product_id},))
        return catalogue_product_of(found[product_id])

    async def product_page(self, skip: int, size: int, token: str, call: Call) -> ProductPage:
        """Some products by id. Raises: GatewayFault."""
        asked = self._client.list_products(page_size=size, page_token=token, skip=skip, **call_options(call))
        page = sure(await or_refusal(asked))
        return ProductPage(tuple(map(catalogue_product_of, page.products)), page.next_page_token, page.total_size)

    async def outcomes(self, request_ids: Sequence[str], call: Call) -> list[Outcome]:
        """What became of the calls with these request ids, in their order. Raises: GatewayFault."""
        with translating():
            found = await self._client.get_requests(request_ids, **call_options(call))
        return [outcome_of(outcome) for outcome in found]

    async def holds_made_since(self, since: datetime | None) -> AsyncIterator[list[Hold]]:
        """All holds with lines that were made then or later, page by page, newest first. Raises: GatewayFault."""
        request = warehouse_pb2.ListReservationsRequest(page_size=PAGE_SIZE)
        request.created_since.FromDatetime(since or EPOCH)
        while True:
            with translating():
                page = await self._client.list_reservations(request)
            yield holds_of(page)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def catalogue(self, changed_since: datetime | None = None) -> AsyncIterator[CataloguePage]:
        """The products that were changed since then (None: all), page by page. Raises: GatewayFault."""
        token, size = "", PAGE_SIZE
        while True:
            try:
                with translating():
                    page = await self._client.list_products(
                        page_size=size, page_token=token, counted=False, changed_since=changed_since
                    )
            except GatewayFault as fault:
                # The warehouse may be set to send more in one message than this client takes.
                if not isinstance(fault.__cause__, MessageTooLarge) or size == 1:
                    raise
                size //= 2
                continue
            yield CataloguePage({one.product_id: product_of(one) for one in page.products}, instant_of(page.read_at))
            token = page.next_page_token
            if not token:
                return

    async def caller(self, call: Call) -> Caller | Refusal:
        """Who this service is there, or what is wrong with its key. Raises: GatewayFault."""
        try:
            found = await self._client.get_caller(**call_options(call))
        except (PermissionDenied, Unauthenticated) as error:
            return Refusal("WAREHOUSE_DENIED", denial(error))
        except WarehouseError as error:
            raise unknown(error) from error
        return Caller(found.name, found.role, instant_of(found.now) if found.HasField("now") else None)

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves."""
        return await self._client.is_serving()

    @property
    def connections_replaced(self) -> int:
        """How many connections were replaced because they had gone silent."""
        return self._client.connections_replaced


@asynccontextmanager
async def connected(
    settings: ClientSettings, observe: Observe | None = None, batches: BatcherSettings | None = None
) -> AsyncIterator[GrpcGateway]:
    """The warehouse at `settings`; hung up at the end, when what is under way is finished.

    Args:
        observe: sees each call.
    """
    async with WarehouseClient(settings, observe) as client:
        gateway = GrpcGateway(client, batches)
        try:
            yield gateway
        finally:
            await gateway.close()


def _lines(lines: Sequence[StockLine]) -> list[warehouse_pb2.Line]:
    return [line(one.product_id, one.warehouse_id, one.quantity) for one in lines]


async def _hold(call: Awaitable[warehouse_pb2.Reservation]) -> Hold | Refusal:
    answer = await or_typed_refusal(call)
    return answer if isinstance(answer, Refusal) else hold_of(answer)


async def _only_hold(call: Awaitable[Sequence[warehouse_pb2.Reservation]]) -> Hold | Refusal:
    answer = await or_typed_refusal(call)
    return answer if isinstance(answer, Refusal) else hold_of(answer[0])
