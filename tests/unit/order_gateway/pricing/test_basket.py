"""Prices and warehouses of an order's lines."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from order_gateway.gateway.modes import Choice
from order_gateway.gateway.port import Call, GatewayFault, Product, Refusal, StockLine
from order_gateway.lifecycle import NewItem, Way
from order_gateway.pricing.basket import Basket, ProductPrices, RequestedLine
from order_gateway.pricing.lru_cache import LruCache

PRICE = Decimal("19.99")
CALL = Call("", "c-1")
CALLED, QUEUED = Choice(Way.GRPC), Choice(Way.QUEUED)


class Shelves:
    """Three products; product 1 in three warehouses."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.is_away = False

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        if self.is_away:
            raise GatewayFault("WAREHOUSE_UNAVAILABLE", "away")
        self.asked.append(list(product_ids))
        known = {
            1: Product(1, Decimal("19.99"), "EUR"),
            2: Product(2, None, ""),
            3: Product(3, Decimal("5.00"), "USD"),
        }
        return {product_id: known[product_id] for product_id in product_ids if product_id in known}

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        if self.is_away:
            raise GatewayFault("WAREHOUSE_UNAVAILABLE", "away")
        return [StockLine(1, 7, 5), StockLine(1, 8, 20), StockLine(1, 9, 100)] if product_id == 1 else []


async def fill(
    *wishes: RequestedLine, said: str | None = None, may_name_prices: bool = True
) -> tuple[NewItem, ...] | Refusal:
    shelves = Shelves()
    basket = Basket(shelves, ProductPrices(shelves, 10), currency="CHF")  # type: ignore[arg-type]
    return await basket.fill(wishes, CALL, CALLED, said, may_name_prices=may_name_prices)


async def code(*wishes: RequestedLine, said: str | None = None, may_name_prices: bool = True) -> str:
    refusal = await fill(*wishes, said=said, may_name_prices=may_name_prices)
    assert isinstance(refusal, Refusal)
    return refusal.code


async def test_prices_come_from_the_catalogue() -> None:
    priced = (NewItem(1, 7, 2, Decimal("19.99"), currency="EUR"),)
    assert await fill(RequestedLine(1, 7, 2, None)) == priced
    assert await fill(RequestedLine(1, 7, 2, Decimal("19.990"))) == priced
    assert await fill(RequestedLine(1, 7, 2, None), may_name_prices=False) == priced
    assert await code(RequestedLine(1, 7, 2, Decimal("19.98"))) == "PRICE_MISMATCH"


async def test_a_product_without_a_list_price_takes_a_services() -> None:
    unpriced = RequestedLine(2, 7, 1, Decimal(3))
    assert await fill(unpriced) == (NewItem(2, 7, 1, Decimal("3.00"), currency="CHF"),)
    assert await fill(unpriced, said="GBP") == (NewItem(2, 7, 1, Decimal("3.00"), currency="GBP"),)
    assert await code(RequestedLine(2, 7, 1, None)) == "INVALID_ARGUMENT"


async def test_customers_never_name_a_price() -> None:
    for price in (None, Decimal(3)):
        assert await code(RequestedLine(2, 7, 1, price), may_name_prices=False) == "PRICE_UNKNOWN"
    refusal = await fill(RequestedLine(1, 7, 1, None), RequestedLine(2, 7, 1, Decimal(0)), may_name_prices=False)
    assert isinstance(refusal, Refusal)
    assert refusal.details == ({"field": "items.1.unit_price", "product_id": 2},)


async def test_unknown_products_are_all_named() -> None:
    refusal = await fill(RequestedLine(1, 7, 1, None), RequestedLine(98, 7, 1, None), RequestedLine(99, None, 1, None))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "PRODUCT_NOT_FOUND"
    assert [item["product_id"] for item in refusal.details] == [98, 99]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ([RequestedLine(1, 7, 1, None), RequestedLine(3, 7, 1, None)], None),
        ([RequestedLine(1, 7, 1, None), RequestedLine(3, 7, 1, None)], "EUR"),
        ([RequestedLine(1, 7, 1, None)], "USD"),
        # A price without a currency counts as the default, CHF.
        ([RequestedLine(1, 7, 1, None), RequestedLine(2, 7, 1, Decimal(3))], None),
        ([RequestedLine(1, 7, 1, None), RequestedLine(2, 7, 1, Decimal(3))], "CHF"),
    ],
)
async def test_one_order_one_currency(wishes: list[RequestedLine], said: str | None) -> None:
    refusal = await fill(*wishes, said=said)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "CURRENCY_MISMATCH"
    assert {item["product_id"] for item in refusal.details} == {wish.product_id for wish in wishes}


async def test_a_services_price_joins_those_of_the_catalogue_if_it_says_their_currency() -> None:
    items = await fill(RequestedLine(1, 7, 1, None), RequestedLine(2, 7, 1, Decimal(3)), said="EUR")
    assert not isinstance(items, Refusal)
    assert [item.currency for item in items] == ["EUR", "EUR"]


async def test_a_currency_without_cents_takes_whole_prices_only() -> None:
    assert await code(RequestedLine(2, 7, 1, Decimal("10.50")), said="JPY") == "INVALID_ARGUMENT"
    assert await fill(RequestedLine(2, 7, 1, Decimal("10.00")), said="JPY") == (
        NewItem(2, 7, 1, Decimal(10), currency="JPY"),
    )


async def test_the_first_warehouse_with_enough_is_chosen_and_lines_share_it() -> None:
    items = await fill(
        RequestedLine(1, None, 4, None),
        RequestedLine(1, None, 4, None),
        RequestedLine(1, 8, 10, None),
        RequestedLine(1, None, 60, None),
    )
    assert not isinstance(items, Refusal)
    assert [item.warehouse_id for item in items] == [7, 8, 8, 9]
    assert [item.any_warehouse for item in items] == [True, True, False, True]


async def test_no_warehouse_has_enough() -> None:
    refusal = await fill(RequestedLine(1, None, 101, None))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "INSUFFICIENT_STOCK"
    assert refusal.details == ({"product_id": 1, "warehouse_id": 9, "requested": 101, "available": 100},)


async def test_what_was_known_counts_while_the_warehouse_is_away() -> None:
    shelves = Shelves()
    catalogue = ProductPrices(shelves, 0)  # type: ignore[arg-type]
    basket = Basket(shelves, catalogue)  # type: ignore[arg-type]
    seen = await basket.fill([RequestedLine(1, 7, 6, None)], CALL, CALLED)
    shelves.is_away = True
    assert await basket.fill([RequestedLine(1, 7, 6, None)], CALL, CALLED) == seen
    with pytest.raises(GatewayFault):
        await basket.fill([RequestedLine(3, 7, 1, None)], CALL, QUEUED)


async def test_a_warehouse_stays_open_where_the_relay_can_choose_it() -> None:
    shelves = Shelves()
    basket = Basket(shelves, ProductPrices(shelves, 10))  # type: ignore[arg-type]
    wishes = [RequestedLine(1, None, 6, None), RequestedLine(1, 7, 1, None)]
    open_ = (NewItem(1, None, 6, PRICE, any_warehouse=True, currency="EUR"), NewItem(1, 7, 1, PRICE, currency="EUR"))
    # Nobody who goes by the queue waits for the warehouse, not even for a no.
    assert await basket.fill(wishes, CALL, QUEUED) == open_
    assert await basket.fill([RequestedLine(1, None, 101, None)], CALL, QUEUED) == (
        NewItem(1, None, 101, PRICE, True, "EUR"),
    )
    shelves.is_away = True
    assert await basket.fill(wishes, CALL, Choice(Way.GRPC, may_defer=True)) == open_
    with pytest.raises(GatewayFault):
        await basket.fill(wishes, CALL, CALLED)


async def test_known_products_are_not_asked_for_again() -> None:
    shelves = Shelves()
    catalogue = ProductPrices(shelves, 10)  # type: ignore[arg-type]
    for _ in range(3):
        await catalogue.products({1, 2, 99}, CALL)
    assert shelves.asked == [[1, 2, 99], [99], [99]]


class Known:
    """What another process has written down."""

    def __init__(self, *products: Product) -> None:
        self.products = {product.product_id: product for product in products}
        self.asked = 0

    async def remember(self, products: Mapping[int, Product]) -> None:
        self.products.update(products)

    async def recall(self, product_ids: Sequence[int]) -> dict[int, Product]:
        self.asked += 1
        return {one: self.products[one] for one in product_ids if one in self.products}


class FarAway(Shelves):
    """The same, 0.2 s away."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: list[float | None] = []

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        self.deadlines.append(call.deadline_seconds)
        await asyncio.sleep(0.2)
        return await super().products(product_ids, call)


async def test_a_late_look_at_prices_is_not_waited_for_and_serves_the_next_order() -> None:
    far, known = FarAway(), Known(Product(1, Decimal("18.00"), "EUR"))
    catalogue = ProductPrices(far, 10, known, 0.02, 3)  # type: ignore[arg-type]
    assert (await catalogue.products({1}, CALL))[1].price == Decimal("18.00")
    assert far.deadlines == [3]
    await asyncio.sleep(0.3)
    assert (await catalogue.products({1}, CALL))[1].price == PRICE
    assert (known.products[1].price, known.asked, len(far.deadlines)) == (PRICE, 1, 1)


async def test_a_product_that_nobody_knows_is_worth_waiting_for() -> None:
    far = FarAway()
    catalogue = ProductPrices(far, 10, Known(), 0.02, 3)  # type: ignore[arg-type]
    found = await catalogue.products({1, 99}, CALL)
    assert found.keys() == {1}


async def test_what_others_have_learned_since_counts_more_than_an_old_memory() -> None:
    shelves, known = Shelves(), Known()
    catalogue = ProductPrices(shelves, 0, known, recall_seconds=0)  # type: ignore[arg-type]
    assert (await catalogue.products({1}, CALL))[1].price == PRICE
    shelves.is_away = True
    known.products[1] = Product(1, Decimal("21.00"), "EUR")
    assert (await catalogue.products({1}, CALL))[1].price == Decimal("21.00")


def test_memories_are_bounded_by_what_was_not_used_for_longest() -> None:
    memory: LruCache[int, str] = LruCache(3)
    for number in (1, 2, 3):
        memory.put(number, str(number))
    assert memory.get(1) == "1"
    memory.put(4, "4")
    assert [memory.get(number) for number in (1, 2, 3, 4)] == ["1", None, "3", "4"]
    assert len(memory) == 3
    assert memory.get(4, 0) is None
