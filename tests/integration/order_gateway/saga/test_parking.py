"""Steps that can't succeed are parked, shown to admins, and go on once what is wrong has been mended."""

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from order_gateway.gateway.port import GatewayFault, Refusal
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.dead_letters import DeadLetterRoutes
from order_gateway.lifecycle import Order, Payment, Reason, Step, Stock
from order_gateway.metrics import GatewayMetrics
from order_gateway.payments import ProviderFault
from order_gateway.settings import MetricsSettings
from order_gateway.storage.idempotency import IdempotencyStore
from tests.kits.processes import DEVELOPMENT_API_KEY
from tests.kits.scripted_orders import AWAY, World
from tests.kits.warehouse_kit import scalar, sql

pytestmark = pytest.mark.sql
KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
HOPELESS = Refusal("INVALID_ARGUMENT", "the warehouse does not understand")
DENIED = GatewayFault("WAREHOUSE_DENIED", "not with this key")
DUE_IN = "SELECT TIMESTAMPDIFF(SECOND, NOW(6), due_at) FROM intents"


async def paid(world: World, *outcomes: Any) -> Order:
    """An order that is paid, and whose sale ends as told."""
    order = await world.create_order()
    world.outside.script["commit"] = list(outcomes)
    await world.saga.pay(order.id, "test")
    return order


async def try_again(world: World) -> None:
    """Whatever is open is tried once more, now."""
    await world.execute("UPDATE intents SET due_at = NOW(6)")
    for intent in await world.intents.claim(100, 30):
        await world.relay.do(intent)


async def parked_count(world: World) -> int:
    return (await world.intents.parked(0, 10))[1]


async def test_a_hopeless_step_is_parked_and_its_order_ends_right_later(world: World, orders_database_url: str) -> None:
    order = await paid(world, *[HOPELESS] * 3)
    await world.execute("UPDATE intents SET attempts = 18")
    await try_again(world)
    assert await parked_count(world) == 0
    await try_again(world)
    [parked], total = await world.intents.parked(0, 10)
    assert (parked.order_id, parked.step, parked.attempts, total) == (order.id, Step.COMMIT, 20, 1)
    assert parked.last_error is not None
    assert "does not understand" in parked.last_error
    assert 2000 < scalar(orders_database_url, DUE_IN) < 5000
    # Its hour has come, and what was wrong is mended.
    await try_again(world)
    assert (await world.store.read(order.id)).state.stock is Stock.COMMITTED
    assert (await world.open_steps(), await parked_count(world)) == ([], 0)


@pytest.mark.parametrize("fault", [AWAY, DENIED])
async def test_who_waits_for_the_warehouse_is_not_parked(
    world: World, orders_database_url: str, fault: GatewayFault
) -> None:
    await paid(world, *[fault] * 3)
    await world.execute("UPDATE intents SET attempts = 5000, created_at = NOW(6) - INTERVAL 1 YEAR")
    await try_again(world)
    assert await parked_count(world) == 0
    assert scalar(orders_database_url, DUE_IN) < 60


async def test_a_provider_that_never_answers_is_parked_after_a_day(world: World) -> None:
    order = await paid(world)
    world.outside.script["refund"] = [ProviderFault("lost")] * 4
    await world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)
    await world.execute("UPDATE intents SET attempts = 500, created_at = NOW(6) - INTERVAL 23 HOUR")
    await try_again(world)
    assert await parked_count(world) == 0
    await world.execute("UPDATE intents SET created_at = NOW(6) - INTERVAL 25 HOUR")
    await try_again(world)
    assert await parked_count(world) == 1
    world.outside.script["refund"] = []
    await try_again(world)
    assert (await world.store.read(order.id)).state.payment is Payment.REFUNDED


async def test_admins_see_what_is_parked_and_have_it_tried_again(world: World, orders_database_url: str) -> None:
    order = await paid(world, *[HOPELESS] * 2)
    await world.execute("UPDATE intents SET attempts = 30")
    await try_again(world)
    operations = DeadLetterRoutes(world.intents, world.relay, PREFIX).operations()
    app = make_app(operations, IdempotencyStore(world.database, 30), world.settings, body_size_max_bytes=1024)
    path, id_ = f"{PREFIX}/dead-letters", f"{order.id}-commit"
    async with TestClient(TestServer(app)) as client:
        async with client.get(path, headers=KEY) as response:
            answer = await response.json()
        assert (answer["data"][0]["id"], answer["data"][0]["attempts"], answer["meta"]["total"]) == (id_, 31, 1)
        for wrong, status in ((f"{order.id}-refund", 404), (f"{order.id}-eat", 400), ("x", 400)):
            async with client.post(f"{path}/{wrong}/retry", headers=KEY) as response:
                assert response.status == status
        metrics = GatewayMetrics(world.database, MetricsSettings(refresh_seconds=0))
        await metrics.look()
        body = metrics.exposition("")[0].decode()
        assert 'order_gateway_steps_parked{step="commit"} 1.0' in body
        assert 'order_gateway_intents_open{step="commit"} 0.0' in body
        async with client.post(f"{path}/{id_}/retry", headers=KEY) as response:
            assert (await response.json())["data"] == {"id": id_, "order_id": order.id, "step": "commit"}
        async with client.post(f"{path}/{id_}/retry", headers=KEY) as response:
            assert response.status == 404
    assert sql(orders_database_url, "SELECT attempts, parked_at, due_at <= NOW(6) FROM intents") == [(0, None, 1)]
    [intent] = await world.intents.claim(10, 30)
    await world.relay.do(intent)
    assert (await world.store.read(order.id)).state.stock is Stock.COMMITTED
