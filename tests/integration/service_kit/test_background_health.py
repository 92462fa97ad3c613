"""A background task that is down is seen: in the health of the warehouse, in /ready of the order service."""

import asyncio
from dataclasses import dataclass

import pytest
from aiohttp.test_utils import TestClient, TestServer
from grpc_health.v1 import health_pb2

from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.health import HealthRoutes
from order_gateway.storage.idempotency import IdempotencyStore
from service_kit import background
from service_kit.background import Background
from service_kit.batcher import Batcher
from tests.kits.scripted_orders import Outside, World
from tests.kits.warehouse_kit import Calls, serving
from warehouse.writing.expiry import Sweeper

pytestmark = pytest.mark.sql
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def _until(calls: Calls, status: int) -> None:
    async with asyncio.timeout(20):
        async for answer in calls.health.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == status:
                return


@pytest.mark.parametrize("kind", ["sweeper", "batcher"])
async def test_the_warehouse_serves_again_when_what_broke_is_at_work_again(
    warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(background, "BEGIN_AGAIN_SECONDS", 0.3)
    broken, take = asyncio.Event(), Batcher._take

    async def broken_run(_self: Sweeper) -> None:
        await broken.wait()

    def broken_take(self: "Batcher[object, object]") -> object:
        if broken.is_set():
            raise RuntimeError("broken")
        return take(self)

    if kind == "sweeper":
        monkeypatch.setattr(Sweeper, "run", broken_run)
    else:
        monkeypatch.setattr(Batcher, "_take", broken_take)
    async with serving(warehouse_database_url, health_check_seconds=0.05) as calls:
        await calls.keep({(1, 1): 10})
        assert await calls.status() == SERVING
        broken.set()
        waiting = asyncio.ensure_future(calls.level(1, 1))
        await _until(calls, NOT_SERVING)
        broken.clear()
        await _until(calls, SERVING)
        assert await waiting == (10, 0)
        assert await calls.hold((1, 1, 1))


@dataclass
class Stumbled:
    """Something that should be at work."""

    name: str = "relay"
    is_healthy: bool = False
    failures: int = 3


async def test_ready_names_what_is_down(orders_database_url: str) -> None:
    world, everything, stumbled = World(orders_database_url), Background(), Stumbled()
    everything.watch(stumbled)
    operations = HealthRoutes(world.database, Outside(), PREFIX, background=everything).operations()
    app = make_app(operations, IdempotencyStore(world.database, 30), world.settings, body_size_max_bytes=1024)
    async with TestClient(TestServer(app)) as client:
        async with client.get("/ready") as response:
            assert response.status == 503
            error = (await response.json())["error"]
            assert error["code"] == "NOT_READY"
            assert "not at work: relay" in error["message"]
        stumbled.is_healthy = True
        async with client.get("/ready") as response:
            assert response.status == 200
            assert (await response.json())["data"]["checks"]["background"]["ok"]
    await world.close()
