"""The order service's HTTP in this process, with a warehouse and a payment provider that fail by script."""

import contextlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from order_gateway.gateway.port import Call, Product, StockLine
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.events import Streams
from order_gateway.http.health import HealthRoutes
from order_gateway.http.order_list import OrderListRoutes
from order_gateway.http.orders import OrderRoutes
from order_gateway.pricing.basket import Basket, ProductPrices
from order_gateway.storage.idempotency import IdempotencyStore
from order_gateway.storage.reading import Listing
from order_gateway.storage.watching import Watching
from tests.kits.scripted_orders import Outside, World

COUNTED_MAX = 3
KEY = {"X-API-Key": "order-service-api-key"}
ITEM = {"product_id": 1, "warehouse_id": 1, "quantity": 2}
ORDER: dict[str, Any] = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [ITEM]}


class Stocked(Outside):
    """Product 1 costs 19.99 and is in warehouse 1."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[str] = []

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        self.looks.append("products")
        return {1: Product(1, Decimal("19.99"), "EUR")} if 1 in product_ids else {}

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        self.looks.append("available")
        return [StockLine(1, 1, 100)]


class Api:
    """The service, served on a real socket, and what stands around it."""

    def __init__(self, world: World, outside: Stocked, client: "TestClient[Any, Any]") -> None:
        self.world = world
        self.outside = outside
        self.client = client

    async def call(
        self, method: str, path: str, body: object = None, *, status: int, headers: Mapping[str, str] = KEY
    ) -> Any:
        sent = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with self.client.request(method, path, headers=headers, **sent) as response:
            answer = await response.json()
            assert response.status == status, answer
            assert response.headers["X-Request-ID"]
            assert response.headers["X-Correlation-ID"]
            assert answer["success"] == (status < 400)
            if status >= 400:
                assert set(answer["error"]) == {"code", "message", "details", "request_id"}
                return answer["error"]
            return answer["data"]


@contextlib.asynccontextmanager
async def serving_orders(url: str, claim_seconds: float = 30) -> AsyncIterator[Api]:
    """The service in this process, on the database at `url`."""
    outside = Stocked()
    world = World(url, outside)
    basket = Basket(outside, ProductPrices(outside, 0))
    listing = Listing(world.database, COUNTED_MAX)
    watching = Watching(listing, world.settings.event_poll_seconds)
    streams = Streams(world.store, listing, watching, world.settings)
    operations = [
        *HealthRoutes(world.database, outside, PREFIX).operations(),
        *OrderRoutes(world.store, world.saga, basket, watching, PREFIX).operations(),
        *OrderListRoutes(world.store, listing, streams, PREFIX).operations(),
    ]
    answers = IdempotencyStore(world.database, lease_seconds=claim_seconds)
    app = make_app(operations, answers, world.settings, body_size_max_bytes=1024 * 1024)
    async with TestClient(TestServer(app)) as client:
        yield Api(world, outside, client)
    await world.close()
