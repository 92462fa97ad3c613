"""From what a customer asks for to the lines of an order: prices from the catalogue, a warehouse for each."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec
import structlog
from msgspec.structs import replace

from order_gateway.allocation import allocate
from order_gateway.gateway.looking import free_stock
from order_gateway.gateway.modes import Choice
from order_gateway.gateway.port import Call, GatewayFault, Product, Refusal, WarehouseGateway
from order_gateway.lifecycle import CURRENCY_UNLESS_SAID, NewItem, Way
from order_gateway.pricing.lru_cache import LruCache
from order_gateway.pricing.price_catalogue import PriceCatalogue
from service_kit.currencies import CENT, WITHOUT_CENTS

log = structlog.get_logger(__name__)
CATALOGUE_SIZE_MAX = 100_000


class RequestedLine(msgspec.Struct, frozen=True):
    """What a customer asks for; `warehouse_id` None: wherever there is enough."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal | None


class ProductPrices:
    """Products of the warehouse, remembered for a short while; for longer if its answer is late or does not come.

    Args:
        keep_seconds: how old what is known may be.
        known: what is asked when neither the warehouse nor this process's memory has an answer.
        deadline_seconds: how long an order waits for the warehouse, where its products are known from before.
        ask_seconds: how long the warehouse is asked; an answer that is too late for one order serves the next.
        recall_seconds: how long what `known` said is not asked for again.
    """

    def __init__(
        self,
        gateway: WarehouseGateway,
        keep_seconds: float,
        known: PriceCatalogue | None = None,
        deadline_seconds: float = 1,
        ask_seconds: float = 3,
        recall_seconds: float = 10,
    ) -> None:
        self._gateway = gateway
        self._keep_seconds = keep_seconds
        self._deadline_seconds = deadline_seconds
        self._ask_seconds = max(ask_seconds, deadline_seconds)
        self._recall_seconds = recall_seconds
        self._answered: LruCache[int, Product] = LruCache(CATALOGUE_SIZE_MAX)
        self._recalled: LruCache[int, Product] = LruCache(CATALOGUE_SIZE_MAX)
        self._known = known
        self._asking: dict[tuple[int, ...], asyncio.Future[Mapping[int, Product]]] = {}

    async def products(self, product_ids: set[int], call: Call) -> dict[int, Product]:
        """Those of `product_ids` that exist. Raises: GatewayFault, if the warehouse must be asked and is away."""
        fresh = _found(self._answered, product_ids, self._keep_seconds)
        if len(fresh) == len(product_ids):
            return fresh
        unknown = tuple(sorted(product_ids - fresh.keys()))
        asking = self._ask_once(unknown, call)
        await asyncio.wait([asking], timeout=self._deadline_seconds)
        if not asking.done() or asking.exception() is not None:
            recalled = await self._recall(unknown)
            if len(recalled) == len(unknown):
                return {**fresh, **recalled}
        return {**fresh, **await asyncio.shield(asking)}

    def _ask_once(self, product_ids: tuple[int, ...], call: Call) -> asyncio.Future[Mapping[int, Product]]:
        """Those who want to know the same at the same time wait for the same answer."""
        asking = self._asking.get(product_ids)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(product_ids, call))
            self._asking[product_ids] = asking
            asking.add_done_callback(lambda done: self._asked(product_ids, done))
        return asking

    def _asked(self, product_ids: tuple[int, ...], done: asyncio.Future[Mapping[int, Product]]) -> None:
        self._asking.pop(product_ids, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            # There may be nobody left who waits for it.
            log.debug("products_not_told", error=str(error))

    async def _ask(self, product_ids: tuple[int, ...], call: Call) -> Mapping[int, Product]:
        found = await self._gateway.products(product_ids, replace(call, deadline_seconds=self._ask_seconds))
        for product_id, product in found.items():
            self._answered.put(product_id, product)
        if self._known is not None:
            await self._known.remember(found)
        return found

    async def _recall(self, product_ids: Sequence[int]) -> dict[int, Product]:
        """What was last known, by this process or by others."""
        if self._known is None:
            return _found(self._answered, product_ids)
        recalled = {
            **_found(self._recalled, product_ids, self._recall_seconds),
            **_found(self._answered, product_ids, self._recall_seconds),
        }
        missing = [one for one in product_ids if one not in recalled]
        if missing:
            # Not to be asked for at every order.
            found = await self._known.recall(missing)
            for product_id, product in found.items():
                self._recalled.put(product_id, product)
            recalled.update({**_found(self._answered, missing), **found})
        return recalled


def _found(memory: LruCache[int, Product], product_ids: Iterable[int], age: float | None = None) -> dict[int, Product]:
    """Those of `product_ids` that are in a memory, and no older than `age` seconds there."""
    return {one: product for one in product_ids if (product := memory.get(one, age)) is not None}


class Basket:
    """Turns requested lines into the lines of an order.

    Args:
        deadline_seconds: how long the warehouse is asked for what is free.
        currency: of prices that a service names without one.
    """

    def __init__(
        self,
        gateway: WarehouseGateway,
        catalogue: ProductPrices,
        deadline_seconds: float = 3,
        currency: str = CURRENCY_UNLESS_SAID,
    ) -> None:
        self._gateway = gateway
        self._catalogue = catalogue
        self._deadline_seconds = deadline_seconds
        self._currency = currency

    async def fill(
        self,
        requested: Sequence[RequestedLine],
        call: Call,
        choice: Choice,
        said: str | None = None,
        *,
        may_name_prices: bool = True,
    ) -> tuple[NewItem, ...] | Refusal:
        """The lines of an order for `requested`, or why there can't be one. Raises: GatewayFault.

        Args:
            choice: how the order is going to begin. Where it goes by the queue, or may, warehouses may stay open.
            said: the currency that the caller has named.
            may_name_prices: whether the caller's `unit_price` counts where the catalogue has none.
        """
        products = await self._catalogue.products({line.product_id for line in requested}, call)
        prices = [_price(position, line, products, may_name_prices) for position, line in enumerate(requested)]
        refused = [price for price in prices if isinstance(price, Refusal)]
        if refused:
            same = [refusal for refusal in refused if refusal.code == refused[0].code]
            return Refusal(same[0].code, same[0].message, tuple(item for refusal in same for item in refusal.details))
        currency = _currency(requested, products, said, self._currency)
        if isinstance(currency, Refusal):
            return currency
        if currency in WITHOUT_CENTS and (details := _with_cents(prices, currency)):
            return Refusal("INVALID_ARGUMENT", "the request is not valid", details)
        warehouse_ids = await self._choose_warehouses(requested, call, choice)
        if isinstance(warehouse_ids, Refusal):
            return warehouse_ids
        return tuple(
            NewItem(line.product_id, warehouse_id, line.quantity, price, line.warehouse_id is None, currency)
            for line, warehouse_id, price in zip(requested, warehouse_ids, prices, strict=True)
            if not isinstance(price, Refusal)
        )

    async def _choose_warehouses(
        self, requested: Sequence[RequestedLine], call: Call, choice: Choice
    ) -> Sequence[int | None] | Refusal:
        """Advice only, as any look at stock is: Reserve decides, and the order's RESERVE step chooses again."""
        warehouse_ids = [line.warehouse_id for line in requested]
        if choice.way is Way.QUEUED or None not in warehouse_ids:
            return warehouse_ids
        products = {line.product_id for line in requested if line.warehouse_id is None}
        look = replace(call, deadline_seconds=self._deadline_seconds)
        try:
            stock = await free_stock(self._gateway, products, look)
        except GatewayFault:
            if not choice.may_defer:
                raise
            return warehouse_ids
        return allocate(requested, stock)


def _currency(
    requested: Sequence[RequestedLine], products: Mapping[int, Product], said: str | None, otherwise: str
) -> str | Refusal:
    """The one currency of an order's prices: the catalogue's, and the caller's where that has no price."""
    named = said or otherwise
    of_products = {one: product.currency_or(named) for one, product in products.items()}
    found = set(of_products.values())
    if said:
        found.add(said)
    if len(found) == 1:
        return found.pop()
    details = tuple({"product_id": one, "currency": currency} for one, currency in sorted(of_products.items()))
    own = next((one for one in sorted(of_products) if products[one].price is None), None)
    hint = "" if own is None or said else f"; unit_price counts as {otherwise} unless the order says its currency"
    return Refusal("CURRENCY_MISMATCH", f"all prices of one order must be in one currency{hint}", details)


def _with_cents(prices: Sequence[Decimal | Refusal], currency: str) -> tuple[Mapping[str, str], ...]:
    """The prices that a currency without cents has no coins for."""
    message = f"must be a whole number, because {currency} has no cents"
    return tuple(
        {"field": f"items.{position}.unit_price", "message": message}
        for position, price in enumerate(prices)
        if isinstance(price, Decimal) and price != price.to_integral_value()
    )


def _price(
    position: int, line: RequestedLine, products: Mapping[int, Product], may_name_prices: bool
) -> Decimal | Refusal:
    product = products.get(line.product_id)
    field = f"items.{position}.unit_price"
    if product is None:
        return Refusal("PRODUCT_NOT_FOUND", "there is no such product", ({"product_id": line.product_id},))
    if product.price is None and not may_name_prices:
        unknown = ({"field": field, "product_id": line.product_id},)
        return Refusal("PRICE_UNKNOWN", "the product has no price; only a service may name one", unknown)
    if product.price is None and line.unit_price is None:
        missing = {"field": field, "message": "required, because the product has no list price"}
        return Refusal("INVALID_ARGUMENT", "the request is not valid", (missing,))
    if product.price is None or line.unit_price is None or product.price == line.unit_price:
        price = product.price if product.price is not None else line.unit_price
        assert price is not None
        return price.quantize(CENT)
    mismatch = {"field": field, "product_id": line.product_id, "unit_price": product.price}
    return Refusal("PRICE_MISMATCH", "the price has changed; ask for the product again", (mismatch,))
