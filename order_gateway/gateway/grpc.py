"""The warehouse over gRPC, through its client library."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp

from order_gateway.gateway.port import (
    Call,
    CataloguePage,
    Done,
    GatewayFault,
    Hold,
    HoldState,
    Product,
    Refusal,
    StockLine,
)
from order_gateway.gateway.shared_reserves import SharedReserves
from order_gateway.gateway.translation import call_options, effect_options, holding_state, or_refusal, translating
from service_kit.background import Watched
from service_kit.batcher import BatcherSettings
from stockwarden_client import MessageTooLarge, ProductNotFound, ReservationNotFound, WarehouseClient, stock_pb2

NANOS_PER_CENT = 10_000_000
NANOS_PER_MICROSECOND = 1000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CATALOGUE_PAGE_SIZE = 1000


class GrpcGateway:
    """WarehouseGateway over a WarehouseClient. Close it before the client.

    Attributes:
        clock_ahead: how far the clock by which holds expire is ahead of this service's; holds are told by the latter.
    """

    def __init__(self, client: WarehouseClient, batches: BatcherSettings | None = None) -> None:
        self._client = client
        self.clock_ahead = timedelta(0)
        self._reserving = SharedReserves(client, batches)

    @property
    def batchers(self) -> tuple[Watched, ...]:
        """What goes on in the background."""
        return (self._reserving.batcher,)

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order. Raises: GatewayFault."""
        answer = await or_refusal(self._reserving.reserve(order_id, lines, ttl_seconds, call))
        if isinstance(answer, Refusal):
            return answer
        return Hold(
            answer.reservation_id,
            _instant(answer.expires_at) - self.clock_ahead,
            _instant(answer.created_at) - self.clock_ahead,
            tuple(StockLine(held.product_id, held.warehouse_id, held.quantity) for held in answer.lines),
        )

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        """Where a reservation stands now; None: the warehouse does not know it. Raises: GatewayFault."""
        try:
            with translating():
                return holding_state(await self._client.get_reservation(reservation_id, **call_options(call)))
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
        answer = await or_refusal(
            self._client.add_stock(
                line.product_id,
                line.warehouse_id,
                line.quantity,
                returned=True,
                reference=reference,
                **effect_options(call),
            )
        )
        if isinstance(answer, Refusal):
            raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not take returned stock: {answer.code}")
        return Done()

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """The products that exist, by id. Raises: GatewayFault."""
        with translating():
            found, _missing = await self._client.get_products(product_ids, **call_options(call))
        return {product_id: _product(product) for product_id, product in found.items()}

    def set_clock_ahead(self, ahead: timedelta) -> None:
        """Take note of how far the warehouse's clock is ahead."""
        self.clock_ahead = ahead

    async def catalogue(self, changed_since: datetime | None = None) -> AsyncIterator[CataloguePage]:
        """The products that were changed since then (None: all), page by page. Raises: GatewayFault."""
        token, size = "", CATALOGUE_PAGE_SIZE
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
            products = {product.product_id: _product(product) for product in page.products}
            yield CataloguePage(products, _instant(page.read_at))
            token = page.next_page_token
            if not token:
                return

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product now; empty for a product that does not exist. Raises: GatewayFault."""
        try:
            with translating():
                levels = await self._client.list_inventory(product_id, **call_options(call))
        except ProductNotFound:
            return ()
        return tuple(StockLine(level.product_id, level.warehouse_id, level.available) for level in levels)

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves."""
        return await self._client.is_serving()

    async def close(self) -> None:
        """Finish what is under way."""
        await self._reserving.close()


def _instant(timestamp: Timestamp) -> datetime:
    """As `ToDatetime(UTC)`, which takes twice as long; every order needs two."""
    return EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // NANOS_PER_MICROSECOND)


def _product(product: stock_pb2.Product) -> Product:
    money = product.list_price
    price = price_of(money.units, money.nanos) if product.HasField("list_price") else None
    return Product(product.product_id, price, money.currency_code)


def price_of(units: int, nanos: int) -> Decimal:
    """A google.type.Money as an amount, to the cent."""
    return Decimal(units) + Decimal(nanos // NANOS_PER_CENT) / 100
