"""From what a customer asks for to the lines of an order: prices from the catalogue, a warehouse for each."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from order_gateway.gateway import Call, Product, Refusal, WarehouseGateway
from order_gateway.orders import NewItem

CATALOGUE_SIZE_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What a customer asks for; `warehouse_id` None: wherever there is enough."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal | None


class Catalogue:
    """Products of the warehouse, remembered for a short while."""

    def __init__(self, gateway: WarehouseGateway, keep_seconds: float) -> None:
        self._gateway = gateway
        self._keep_seconds = keep_seconds
        self._known: dict[int, tuple[float, Product]] = {}

    async def products(self, product_ids: set[int], call: Call) -> dict[int, Product]:
        """Those of `product_ids` that exist. Raises: GatewayFault."""
        oldest = time.monotonic() - self._keep_seconds
        fresh = {
            product_id: known[1]
            for product_id in product_ids
            if (known := self._known.get(product_id)) is not None and known[0] > oldest
        }
        unknown = sorted(product_ids - fresh.keys())
        if not unknown:
            return fresh
        found = await self._gateway.products(unknown, call)
        if len(self._known) > CATALOGUE_SIZE_MAX:
            self._known.clear()
        now = time.monotonic()
        self._known.update({product_id: (now, product) for product_id, product in found.items()})
        return {**fresh, **found}


class Basket:
    """Turns wishes into lines."""

    def __init__(self, gateway: WarehouseGateway, catalogue: Catalogue) -> None:
        self._gateway = gateway
        self._catalogue = catalogue

    async def fill(self, wishes: Sequence[Wish], call: Call) -> tuple[NewItem, ...] | Refusal:
        """The lines of an order for `wishes`, or why there can't be one. Raises: GatewayFault."""
        products = await self._catalogue.products({wish.product_id for wish in wishes}, call)
        prices = [_price(place, wish, products) for place, wish in enumerate(wishes)]
        refused = [price for price in prices if isinstance(price, Refusal)]
        if refused:
            same = [refusal for refusal in refused if refusal.code == refused[0].code]
            return Refusal(same[0].code, same[0].message, tuple(item for refusal in same for item in refusal.details))
        if len({products[wish.product_id].currency for wish in wishes if products[wish.product_id].currency}) > 1:
            return Refusal("PRICE_MISMATCH", "the products of one order must be priced in one currency")
        places = await self._choose_warehouses(wishes, call)
        if isinstance(places, Refusal):
            return places
        return tuple(
            NewItem(wish.product_id, place, wish.quantity, price)
            for wish, place, price in zip(wishes, places, prices, strict=True)
            if not isinstance(price, Refusal)
        )

    async def _choose_warehouses(self, wishes: Sequence[Wish], call: Call) -> list[int] | Refusal:
        """Advice only, as any look at stock is: Reserve decides."""
        taken: defaultdict[tuple[int, int], int] = defaultdict(int)
        for wish in wishes:
            if wish.warehouse_id is not None:
                taken[wish.product_id, wish.warehouse_id] += wish.quantity
        stock = {
            product_id: await self._gateway.available(product_id, call)
            for product_id in sorted({wish.product_id for wish in wishes if wish.warehouse_id is None})
        }
        places: list[int] = []
        short: list[dict[str, Any]] = []
        for wish in wishes:
            if wish.warehouse_id is not None:
                places.append(wish.warehouse_id)
                continue
            free = {
                level.warehouse_id: level.quantity - taken[wish.product_id, level.warehouse_id]
                for level in stock[wish.product_id]
            }
            place = next((warehouse_id for warehouse_id, units in free.items() if units >= wish.quantity), None)
            if place is None:
                best = max(free, key=lambda warehouse_id: free[warehouse_id], default=None)
                short.append(_shortage(wish, best, max(free.values(), default=0)))
            else:
                taken[wish.product_id, place] += wish.quantity
                places.append(place)
        return Refusal("INSUFFICIENT_STOCK", "not enough stock", tuple(short)) if short else places


def _shortage(wish: Wish, warehouse_id: int | None, available: int) -> dict[str, Any]:
    return {
        "product_id": wish.product_id,
        "warehouse_id": warehouse_id,
        "requested": wish.quantity,
        "available": max(available, 0),
    }


def _price(place: int, wish: Wish, products: dict[int, Product]) -> Decimal | Refusal:
    product = products.get(wish.product_id)
    field = f"items.{place}.unit_price"
    if product is None:
        return Refusal("PRODUCT_NOT_FOUND", "there is no such product", ({"product_id": wish.product_id},))
    if product.price is None and wish.unit_price is None:
        missing = {"field": field, "message": "required, because the product has no list price"}
        return Refusal("INVALID_ARGUMENT", "the request is not valid", (missing,))
    if product.price is None or wish.unit_price is None or product.price == wish.unit_price:
        price = product.price if product.price is not None else wish.unit_price
        assert price is not None
        return price.quantize(Decimal("0.01"))
    mismatch = {"field": field, "product_id": wish.product_id, "unit_price": product.price}
    return Refusal("PRICE_MISMATCH", "the price has changed; ask for the product again", (mismatch,))
