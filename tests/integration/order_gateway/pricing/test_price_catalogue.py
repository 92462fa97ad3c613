"""What was last known of products is kept in the database, for the next process."""

from decimal import Decimal

import pytest

from order_gateway.gateway.port import Product
from order_gateway.pricing.price_catalogue import PriceCatalogue
from service_kit.database.database import Database

pytestmark = pytest.mark.sql


async def test_what_was_remembered_last_is_recalled_by_another_process(orders_database_url: str) -> None:
    database = Database(orders_database_url)
    before = {1: Product(1, Decimal("9999999999.99"), "EUR"), 2: Product(2, None, ""), 3: Product(3, Decimal(1), "USD")}
    after = {2: Product(2, Decimal("0.05"), "USD")}
    first, other = PriceCatalogue(database), PriceCatalogue(database)
    await first.remember(before)
    await first.remember(after)
    assert await other.recall([4, 2, 1]) == {1: before[1], **after}
    assert await other.recall([]) == {}
    await database.close()
