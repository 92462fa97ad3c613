"""What tests of orders ask for: an order service without its HTTP, with a real warehouse or a scripted outside."""

from collections.abc import AsyncIterator

import pytest

from tests.kits.orders_kit import Shop, shop
from tests.kits.scripted_orders import World


@pytest.fixture
async def at(orders_database_url: str, warehouse_database_url: str) -> AsyncIterator[Shop]:
    """The order service with a real warehouse."""
    async with shop(orders_database_url, warehouse_database_url) as opened:
        yield opened


@pytest.fixture
async def world(orders_database_url: str) -> AsyncIterator[World]:
    """The order service with an outside that fails by script."""
    made = World(orders_database_url)
    yield made
    await made.close()
