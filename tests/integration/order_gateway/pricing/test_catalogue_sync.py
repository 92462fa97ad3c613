"""The catalogue in the orders' database: read by one process at a time, and only what has changed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from development.free_ports import free_port
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.gateway.port import CataloguePage, GatewayFault, Product
from order_gateway.pricing.catalogue_sync import OVERLAP, CatalogueSync, CatalogueSyncSettings
from order_gateway.pricing.price_catalogue import PRODUCTS_CACHED_MAX, PriceCatalogue
from service_kit.database.database import Database
from stockwarden_client import ClientSettings, WarehouseClient
from stockwarden_client.v1 import stock_pb2 as stock
from tests.kits.warehouse_kit import fresh, serving, sql

pytestmark = pytest.mark.sql
READ_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
SETTINGS = CatalogueSyncSettings(every_seconds=30, all_every_seconds=3600, retry_seconds=5, lease_seconds=60)
DUE = "UPDATE catalogue_reading SET due_at = NOW(6)"


class Pages:
    """A catalogue of two pages; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[datetime | None] = []
        self.fault: GatewayFault | None = None
        self.prices = {1: Decimal(1), 2: Decimal(2)}
        self.begun, self.turn = asyncio.Event(), asyncio.Event()
        self.turn.set()

    async def __call__(self, changed_since: datetime | None) -> AsyncIterator[CataloguePage]:
        self.asked.append(changed_since)
        self.begun.set()
        for number, price in self.prices.items():
            await self.turn.wait()
            yield CataloguePage({number: Product(number, price, "EUR")}, READ_AT + timedelta(seconds=number))
            if self.fault is not None:
                raise self.fault


@pytest.fixture
async def database(orders_database_url: str) -> AsyncIterator[Database]:
    database = Database(orders_database_url)
    yield database
    await database.close()


def reading(database: Database, pages: Pages) -> CatalogueSync:
    return CatalogueSync(database, PriceCatalogue(database), pages, SETTINGS)


async def test_one_process_reads_for_all(database: Database, orders_database_url: str) -> None:
    pages = Pages()
    pages.turn.clear()
    several = [reading(database, pages) for _ in range(4)]
    at_work = [asyncio.create_task(one.read()) for one in several]
    done, waiting = await asyncio.wait(at_work, timeout=2, return_when=asyncio.ALL_COMPLETED)
    assert [task.result() for task in done] == [None] * 3
    pages.turn.set()
    assert await waiting.pop() == 2
    assert [await one.read() for one in several] == [None] * 4
    assert pages.asked == [None]
    known = await PriceCatalogue(database).recall([1, 2])
    assert [product.price for product in known.values()] == [1, 2]
    # When it is due again, only what has changed; from the first page's time on, and a little before.
    sql(orders_database_url, DUE)
    assert await several[0].read() == 2
    sql(orders_database_url, f"{DUE}, all_due_at = NOW(6)")
    assert await several[3].read() == 2
    assert pages.asked == [None, READ_AT + timedelta(seconds=1) - OVERLAP, None]


async def test_a_reading_that_fails_is_repeated_soon_from_where_it_began(
    database: Database, orders_database_url: str
) -> None:
    pages = Pages()
    one = reading(database, pages)
    assert await one.read() == 2
    sql(orders_database_url, DUE)
    pages.fault = GatewayFault("WAREHOUSE_UNAVAILABLE", "away")
    assert await one.read() is None
    [(due_in,)] = sql(orders_database_url, "SELECT TIMESTAMPDIFF(SECOND, NOW(6), due_at) FROM catalogue_reading")
    assert due_in <= SETTINGS.retry_seconds
    pages.fault = None
    sql(orders_database_url, DUE)
    await one.read()
    assert pages.asked[1] == pages.asked[2]


async def test_who_dies_while_reading_is_followed_by_another(database: Database, orders_database_url: str) -> None:
    pages = Pages()
    pages.turn.clear()
    dying = asyncio.create_task(reading(database, pages).read())
    await pages.begun.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    other = reading(database, pages)
    assert await other.read() is None
    sql(orders_database_url, DUE)
    pages.turn.set()
    assert await other.read() == 2


async def test_a_real_catalogue_is_read_once_and_then_its_changes(
    database: Database, warehouse_database_url: str
) -> None:
    port = free_port()
    async with serving(warehouse_database_url, listen=f"127.0.0.1:{port}") as calls:
        await calls.keep({(number, 1): 1 for number in range(1, 6)})
        async with WarehouseClient(ClientSettings(target=f"127.0.0.1:{port}")) as client:
            gateway = GrpcGateway(client)
            every = [page async for page in gateway.catalogue(None)]
            assert [sorted(page.products) for page in every] == [[1, 2, 3, 4, 5]]
            nothing = [page async for page in gateway.catalogue(every[0].read_at)]
            assert [page.products for page in nothing] == [{}]
            await calls.stock.CreateProduct(
                stock.CreateProductRequest(request_id=fresh("p"), product_id=9, sku="NEW", name="New")
            )
            changed = [page async for page in gateway.catalogue(every[0].read_at)]
            assert [sorted(page.products) for page in changed] == [[9]]


async def test_the_memory_of_what_was_written_is_bounded_and_runs_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = PriceCatalogue(database), PriceCatalogue(database)
    await first.learn({number: Product(number, Decimal(1), "EUR") for number in range(1, PRODUCTS_CACHED_MAX + 500)})
    assert len(first._written) == PRODUCTS_CACHED_MAX
    product = {PRODUCTS_CACHED_MAX: Product(PRODUCTS_CACHED_MAX, Decimal(1), "EUR")}
    await other.remember({PRODUCTS_CACHED_MAX: Product(PRODUCTS_CACHED_MAX, Decimal(2), "EUR")})
    await first.remember(product)
    assert (await first.recall(product))[PRODUCTS_CACHED_MAX].price == 2
    monkeypatch.setattr("order_gateway.pricing.price_catalogue.PRODUCTS_CACHED_SECONDS", 0)
    await first.remember(product)
    assert await other.recall(product) == product
