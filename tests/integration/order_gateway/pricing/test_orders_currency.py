"""A currency stands with every amount: of orders made before, of new ones, and of what clients are told."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy.engine import make_url

from order_gateway.gateway.port import Call, Product
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.orders import OrderRoutes
from order_gateway.lifecycle import NewItem, NewOrder
from order_gateway.pricing.basket import Basket, ProductPrices
from order_gateway.storage.idempotency import IdempotencyStore
from order_gateway.storage.reading import Listing
from order_gateway.storage.store import Store, StoreSettings
from order_gateway.storage.watching import Watching
from service_kit.database import migrating
from service_kit.database.database import Database
from tests.kits.scripted_orders import Outside, World
from tests.kits.warehouse_kit import connection, sql

pytestmark = pytest.mark.sql
KEY = {"X-API-Key": "order-service-api-key"}
PRODUCTS = {1: Product(1, Decimal("19.99"), "EUR"), 2: Product(2, Decimal("5.00"), "USD"), 3: Product(3, None, "")}
BEFORE = """
INSERT INTO known_products (product_id, price, currency, seen_at)
VALUES (1, 2.00, 'EUR', NOW(6)), (2, NULL, '', NOW(6));
INSERT INTO orders (id, user_id, status, stock, payment, way, total_amount, shipping_address, payment_method,
  payment_deadline, correlation_id, placement, created_at, updated_at)
VALUES (1, 'u', 'pending', 'held', 'none', 'grpc', 4.00, 'x', 'card', NOW(6), 'c', REPEAT('1', 32), NOW(6), NOW(6)),
  (2, 'u', 'paid', 'committed', 'charged', 'grpc', 2.00, 'x', 'card', NOW(6), 'c', REPEAT('2', 32), NOW(6), NOW(6)),
  (3, 'u', 'paid', 'committed', 'charged', 'grpc', 9.00, 'x', 'card', NOW(6), 'c', REPEAT('3', 32), NOW(6), NOW(6));
INSERT INTO items (order_id, position, product_id, warehouse_id, quantity, unit_price, total_price)
VALUES (1, 1, 2, 1, 1, 2.00, 2.00), (1, 2, 1, 1, 1, 2.00, 2.00), (2, 1, 1, 1, 1, 2.00, 2.00),
  (3, 1, 2, 1, 1, 9.00, 9.00);
INSERT INTO payments (order_id, amount, method, created_at, charged_at)
VALUES (2, 2.00, 'card', NOW(6), NOW(6)), (3, 9.00, 'card', NOW(6), NOW(6));
"""


@pytest.fixture
def url(database_server: str) -> Iterator[str]:
    """A database as it was before money had a currency."""
    made = make_url(database_server).set(database="before_currency").render_as_string(hide_password=False)
    migrating.upgrade(made, "orders", "0005")
    yield made
    sql(made, "DROP DATABASE before_currency")


def test_orders_made_before_get_the_currency_of_their_products(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connection(url) as made, made.cursor() as cursor:
        for statement in BEFORE.split(";\n"):
            if statement.strip():
                cursor.execute(statement)
        made.commit()
    monkeypatch.setenv("ORDERS_CURRENCY_DEFAULT", "CHF")
    migrating.upgrade(url, "orders")
    orders = sql(url, "SELECT id, currency, payment_provider FROM orders ORDER BY id")
    assert [tuple(row) for row in orders] == [(1, "EUR", None), (2, "EUR", "simulator"), (3, "CHF", "simulator")]
    payments = sql(url, "SELECT order_id, currency, provider FROM payments ORDER BY order_id")
    assert [tuple(row) for row in payments] == [(2, "EUR", "simulator"), (3, "CHF", "simulator")]
    migrating.downgrade(url, "orders", "0005")


async def test_a_new_order_keeps_its_currency(orders_database_url: str) -> None:
    database = Database(orders_database_url)
    store = Store(database, StoreSettings(900, 120))
    items = tuple(NewItem(1, 1, 1, Decimal("1.00"), currency="JPY") for _ in range(2))
    made = await store.create(NewOrder("u", "Street 1", "card", items, "c-1", "test"), 5)
    read = await store.read(made.id)
    for order in (made, read):
        assert (order.currency, {item.currency for item in order.items}) == ("JPY", {"JPY"})
    await store.close()
    await database.close()


class Shelves(Outside):
    """Three products, in as many currencies or none."""

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        return {one: PRODUCTS[one] for one in product_ids if one in PRODUCTS}


class Api:
    def __init__(self, client: "TestClient[Any, Any]") -> None:
        self._client = client

    async def create_order(
        self, *items: dict[str, Any], status: int, currency: str | None = None, person: Mapping[str, str] | None = None
    ) -> Any:
        lines = [{"warehouse_id": 1, "quantity": 1, **item} for item in items]
        body = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": lines}
        body |= {"currency": currency} if currency else {}
        async with self._client.post(f"{PREFIX}/orders", json=body, headers={**KEY, **(person or {})}) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer["data"] if status < 400 else answer["error"]

    async def customer(self) -> Mapping[str, str]:
        login = {"username": "customer", "password": "customer"}
        async with self._client.post(f"{PREFIX}/auth/token", json=login) as response:
            return {"Authorization": f"Bearer {(await response.json())['data']['access_token']}"}


@pytest.fixture
async def api(orders_database_url: str) -> AsyncIterator[Api]:
    shelves = Shelves()
    world = World(orders_database_url, shelves)
    watching = Watching(Listing(world.database, 100), 1)
    basket = Basket(shelves, ProductPrices(shelves, 0), currency=world.settings.currency_default)
    operations = OrderRoutes(world.store, world.saga, basket, watching, PREFIX).operations()
    app = make_app(operations, IdempotencyStore(world.database, 30), world.settings, body_size_max_bytes=1024 * 1024)
    async with TestClient(TestServer(app)) as client:
        yield Api(client)
    await world.close()


async def test_clients_are_told_the_currency_of_every_amount(api: Api) -> None:
    order = await api.create_order({"product_id": 1}, status=201)
    assert (order["total_amount"], order["currency"], order["payment_status"]) == (19.99, "EUR", "none")
    assert [item["currency"] for item in order["items"]] == ["EUR"]


async def test_one_order_has_one_currency(api: Api) -> None:
    mixed = await api.create_order({"product_id": 1}, {"product_id": 2}, status=409)
    assert (mixed["code"], mixed["details"]) == (
        "CURRENCY_MISMATCH",
        [{"product_id": 1, "currency": "EUR"}, {"product_id": 2, "currency": "USD"}],
    )
    other = await api.create_order({"product_id": 1}, status=409, currency="USD")
    assert other["code"] == "CURRENCY_MISMATCH"
    own = {"product_id": 3, "unit_price": "3.50"}
    unsaid = await api.create_order({"product_id": 1}, own, status=409)
    assert "USD unless the order says its currency" in unsaid["message"]
    said = await api.create_order({"product_id": 1}, own, status=201, currency="EUR")
    assert (said["total_amount"], said["currency"]) == (23.49, "EUR")
    assert (await api.create_order(own, status=201))["currency"] == "USD"
    for malformed in ("eur", "EURO", "€€€"):
        refused = await api.create_order(own, status=400, currency=malformed)
        assert refused["details"][0]["field"] == "currency"


async def test_only_a_service_names_a_price(api: Api) -> None:
    unpriced = {"product_id": 3}
    missing = await api.create_order(unpriced, status=400)
    assert missing["details"][0]["field"] == "items.0.unit_price"
    customer = await api.customer()
    for item in (unpriced, {**unpriced, "unit_price": 0}, {**unpriced, "unit_price": "3.50"}):
        assert (await api.create_order(item, status=409, person=customer))["code"] == "PRICE_UNKNOWN"
    assert (await api.create_order({"product_id": 1}, status=201, person=customer))["currency"] == "EUR"
