"""From what a customer asks for to the lines of an order: prices from the catalogue, a warehouse for each."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import replace

from order_gateway.gateway import Call, GatewayFault, Product, Refusal, StockLine, WarehouseGateway
from order_gateway.known_products import KnownProducts
from order_gateway.orders import NewItem

CATALOGUE_SIZE_MAX = 100_000


class Wish(msgspec.Struct, frozen=True):
    """What a customer asks for; `warehouse_id` None: wherever there is enough."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal | None


class Catalogue:
    """Products of the warehouse, remembered for a short while; for longer if the warehouse can't be asked.

    Args:
        keep_seconds: how old what is known may be.
        known: what is asked when neither the warehouse nor this process's memory has an answer.
        deadline_seconds: how long the warehouse is asked.
    """

    def __init__(
        self,
        gateway: WarehouseGateway,
        keep_seconds: float,
        known: KnownProducts | None = None,
        deadline_seconds: float = 1,
    ) -> None:
        self._gateway = gateway
        self._keep_seconds = keep_seconds
        self._deadline_seconds = deadline_seconds
        self._remembered: dict[int, tuple[float, Product]] = {}
        self._known = known
        self._asking: dict[tuple[int, ...], asyncio.Future[Mapping[int, Product]]] = {}

    async def products(self, product_ids: set[int], call: Call) -> dict[int, Product]:
        """Those of `product_ids` that exist. Raises: GatewayFault, if the warehouse must be asked and is away."""
        oldest = time.monotonic() - self._keep_seconds
        fresh = {
            product_id: kept[1]
            for product_id in product_ids
            if (kept := self._remembered.get(product_id)) is not None and kept[0] > oldest
        }
        unknown = tuple(sorted(product_ids - fresh.keys()))
        if not unknown:
            return fresh
        try:
            return {**fresh, **await self._ask_once(unknown, call)}
        except GatewayFault:
            recalled = await self._recall(unknown)
            if len(recalled) < len(unknown):
                raise
            return {**fresh, **recalled}

    async def _ask_once(self, product_ids: tuple[int, ...], call: Call) -> Mapping[int, Product]:
        """Those who want to know the same at the same time wait for the same answer."""
        asking = self._asking.get(product_ids)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(product_ids, call))
            self._asking[product_ids] = asking
            asking.add_done_callback(lambda _: self._asking.pop(product_ids, None))
        return await asyncio.shield(asking)

    async def _ask(self, product_ids: tuple[int, ...], call: Call) -> Mapping[int, Product]:
        found = await self._gateway.products(product_ids, replace(call, deadline_seconds=self._deadline_seconds))
        if len(self._remembered) > CATALOGUE_SIZE_MAX:
            self._remembered.clear()
        now = time.monotonic()
        self._remembered.update({product_id: (now, product) for product_id, product in found.items()})
        if self._known is not None:
            await self._known.remember(found)
        return found

    async def _recall(self, product_ids: Sequence[int]) -> dict[int, Product]:
        """What was last known, however old."""
        recalled = {one: self._remembered[one][1] for one in product_ids if one in self._remembered}
        missing = [one for one in product_ids if one not in recalled]
        if missing and self._known is not None:
            found = await self._known.recall(missing)
            # Not to be asked for at every order; they count as old.
            self._remembered.update({product_id: (-math.inf, product) for product_id, product in found.items()})
            recalled.update(found)
        return recalled


class Basket:
    """Turns wishes into lines."""

    def __init__(self, gateway: WarehouseGateway, catalogue: Catalogue) -> None:
        self._gateway = gateway
        self._catalogue = catalogue
        self._seen: dict[int, Sequence[StockLine]] = {}

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
            product_id: await self._available(product_id, call)
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

    async def _available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product, in the warehouses' order; while the warehouse is away, what was seen last."""
        try:
            levels = await self._gateway.available(product_id, call)
        except GatewayFault as fault:
            if product_id not in self._seen:
                message = f"the warehouse is away; name a warehouse_id for product {product_id}, or try again shortly"
                raise GatewayFault(fault.code, message, fault.retry_after_seconds) from fault
            return self._seen[product_id]
        if len(self._seen) > CATALOGUE_SIZE_MAX:
            self._seen.clear()
        self._seen[product_id] = levels
        return levels


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
