"""The warehouse over gRPC, through its client library."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from decimal import Decimal

from order_gateway.gateway import Call, Done, GatewayFault, Hold, Product, Refusal, StockLine
from order_gateway.gateway.translation import call_options, or_refusal, translated
from warehouse.client import ProductNotFound, WarehouseClient, line

NANOS_PER_CENT = 10_000_000


class GrpcGateway:
    """WarehouseGateway over a WarehouseClient."""

    def __init__(self, client: WarehouseClient) -> None:
        self._client = client

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order. Raises: GatewayFault."""
        wanted = [line(wish.product_id, wish.warehouse_id, wish.quantity) for wish in lines]
        answer = await or_refusal(self._client.reserve(order_id, wanted, ttl_seconds=ttl_seconds, **call_options(call)))
        if isinstance(answer, Refusal):
            return answer
        return Hold(
            answer.reservation_id,
            answer.expires_at.ToDatetime(UTC),
            answer.created_at.ToDatetime(UTC),
            tuple(StockLine(held.product_id, held.warehouse_id, held.quantity) for held in answer.lines),
        )

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
                **call_options(call),
            )
        )
        if isinstance(answer, Refusal):
            raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not take returned stock: {answer.code}")
        return Done()

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """The products that exist, by id. Raises: GatewayFault."""
        with translated():
            found, _missing = await self._client.get_products(product_ids, **call_options(call))
        return {
            product_id: Product(
                product_id,
                price_of(product.list_price.units, product.list_price.nanos)
                if product.HasField("list_price")
                else None,
                product.list_price.currency_code,
            )
            for product_id, product in found.items()
        }

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product now; empty for a product that does not exist. Raises: GatewayFault."""
        try:
            with translated():
                levels = await self._client.list_inventory(product_id, **call_options(call))
        except ProductNotFound:
            return ()
        return tuple(StockLine(level.product_id, level.warehouse_id, level.available) for level in levels)

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves."""
        return await self._client.is_serving()


def price_of(units: int, nanos: int) -> Decimal:
    """A google.type.Money as an amount, to the cent."""
    return Decimal(units) + Decimal(nanos // NANOS_PER_CENT) / 100
