"""Looks that take several calls: what is free anywhere, and pages of the catalogue."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from order_gateway.gateway.looking import LOOKS_AT_ONCE_MAX, AvailabilityCheck, products_at
from order_gateway.gateway.port import Call, StockLine
from order_gateway.gateway.stock import Availability, AvailabilityQuestion, CatalogueProduct, ProductPage
from tests.kits.unasked_warehouse import UnaskedWarehouse

CALL = Call("", "c-1")
NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Shelves(UnaskedWarehouse):
    """Product 1 in two warehouses; what is asked of one warehouse is always there."""

    def __init__(self) -> None:
        self.under_way = self.most_under_way = 0

    async def check(self, lines: Sequence[StockLine], call: Call) -> list[Availability]:
        return [Availability(one.product_id, one.warehouse_id, one.quantity, 9, sufficient=True) for one in lines]

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return (StockLine(1, 7, 5), StockLine(1, 8, 20)) if product_id == 1 else ()


async def test_each_question_gets_its_answer() -> None:
    wanted = [
        AvailabilityQuestion(1, None, 20),
        AvailabilityQuestion(3, 4, 1),
        AvailabilityQuestion(1, None, 21),
        AvailabilityQuestion(2, None, 1),
        AvailabilityQuestion(3, 5, 2),
    ]
    assert await AvailabilityCheck(Shelves()).of(wanted, CALL) == [
        Availability(1, 8, 20, 20, sufficient=True),
        Availability(3, 4, 1, 9, sufficient=True),
        # One warehouse has to have it all: 5 and 20 are not 25.
        Availability(1, 8, 21, 20, sufficient=False),
        Availability(2, None, 1, 0, sufficient=False),
        Availability(3, 5, 2, 9, sufficient=True),
    ]


async def test_of_all_who_ask_few_look_at_a_time() -> None:
    shelves = Shelves()
    check = AvailabilityCheck(shelves)
    anywhere = [AvailabilityQuestion(1, None, 1)] * 5
    await asyncio.gather(*(check.of(anywhere, CALL) for _ in range(5)))
    assert shelves.most_under_way == LOOKS_AT_ONCE_MAX


class Catalogue(UnaskedWarehouse):
    """Ten products, of which a page has three at most."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, str]] = []

    async def product_page(self, skip: int, size: int, token: str, call: Call) -> ProductPage:
        self.asked.append((skip, size, token))
        first = int(token or 0) + skip
        ids = range(first + 1, min(first + min(size, 3), 10) + 1)
        page = tuple(CatalogueProduct(one, one, "", "", "", None, None, NOW, NOW) for one in ids)
        return ProductPage(page, str(ids[-1]) if ids and ids[-1] < 10 else "", 10)


async def test_a_page_is_made_of_shorter_ones() -> None:
    catalogue = Catalogue()
    found, total = await products_at(catalogue, 2, 4, CALL)
    assert ([one.id for one in found], total) == ([3, 4, 5, 6], 10)
    assert catalogue.asked == [(2, 4, ""), (0, 1, "5")]
    found, total = await products_at(catalogue, 8, 4, CALL)
    assert ([one.id for one in found], total) == ([9, 10], 10)
    assert await products_at(catalogue, 20, 4, CALL) == ([], 10)
