"""The three ways to the warehouse with real processes: it dies and comes back, and every order ends right."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.kits.processes import DEVELOPMENT_API_KEY, ROOT, Processes, clean_environment
from tests.kits.shop_processes import Shop, order
from tests.kits.waiting import until
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
OUTAGE_SECONDS = 10
HOT_PRODUCT, WAREHOUSE = 1, 1
STOCK_ADDED = 1_000_000


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Shop]:
    shop = Shop(processes, warehouse_database_url, orders_database_url)
    try:
        await load_demo(shop.target, "")
        await shop.warehouse.add_stock(HOT_PRODUCT, WAREHOUSE, STOCK_ADDED, request_id="hot")
        yield shop
    finally:
        await shop.close()


async def audit_both(shop: Shop) -> None:
    """Neither audit finds anything."""
    await shop.audit()
    status, output = await audit_orders(shop)
    assert status == 0, output


async def statuses(shop: Shop, ids: list[int]) -> Counter[str]:
    """How these orders stand."""
    found: Counter[str] = Counter()
    for order_id in ids:
        found[(await shop.call("GET", f"/orders/{order_id}", status=200))["status"]] += 1
    return found


async def health(shop: Shop) -> Any:
    return await shop.call("GET", "/warehouse/health", status=200)


@pytest.mark.parametrize("mode", ["grpc", "queued"])
async def test_the_whole_flow(shop: Shop, mode: str) -> None:
    shop.restart_gateway(ORDERS_GATEWAY=mode)
    first, second, third = [await shop.create_order(status=201 if mode == "grpc" else 202) for _ in range(3)]
    for placed in (first, second, third):
        seen = await shop.call("GET", f"/orders/{placed['id']}?wait=10", status=200)
        assert seen["status"] == "pending"
        assert [hold["is_active"] for hold in seen["reservations"]] == [True]
    path = f"/orders/{first['id']}"
    assert (await shop.call("POST", f"{path}/payment", {}, status=200))["status"] == "paid"
    assert (await shop.call("PATCH", f"{path}/status", {"status": "shipped"}, status=200))["status"] == "shipped"
    assert (await shop.call("PATCH", f"{path}/status", {"status": "completed"}, status=200))["status"] == "completed"
    await shop.call("POST", f"/orders/{second['id']}/cancel", {}, status=200)
    await shop.call("POST", f"/orders/{third['id']}/payment", {}, status=200)
    await shop.call("POST", f"/orders/{third['id']}/cancel", {}, status=200)

    async def is_settled() -> bool:
        return await shop.levels() == (100 + STOCK_ADDED - 2, 0)

    await until(is_settled)
    refused = order(2 * STOCK_ADDED // 2, product_id=2)
    placed = await shop.create_order(refused, status=409 if mode == "grpc" else 202)
    if mode == "queued":
        seen = await shop.call("GET", f"/orders/{placed['id']}?wait=10", status=200)
        assert (seen["status"], seen["refusal"]["code"]) == ("rejected", "INSUFFICIENT_STOCK")
    await audit_both(shop)


async def test_auto_rides_out_a_dead_warehouse(shop: Shop) -> None:
    """Killed for ten seconds under load: every POST answers 201 or 202, and every order ends right."""
    shop.restart_gateway(ORDERS_GATEWAY="auto")
    answers: Counter[int] = Counter()
    placed: list[int] = []
    is_over = asyncio.Event()

    async def customer() -> None:
        while not is_over.is_set():
            async with shop.session.post(f"{shop.base_url}/orders", json=order(1)) as response:
                answer = await response.json()
                answers[response.status] += 1
                if response.status in (201, 202):
                    placed.append(answer["data"]["id"])

    customers = [asyncio.create_task(customer()) for _ in range(8)]
    await asyncio.sleep(1)
    shop.warehouse_process.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    assert (await health(shop))["breaker"] == "open"
    await asyncio.to_thread(shop.start_warehouse_again)

    async def is_healed() -> bool:
        return bool((await health(shop))["breaker"] == "closed")

    await until(is_healed)
    await asyncio.sleep(1)
    is_over.set()
    await asyncio.gather(*customers)
    assert set(answers) == {201, 202}, answers
    assert min(answers.values()) > 10

    async def all_are_held() -> bool:
        return (await shop.levels())[1] == len(placed)

    await until(all_are_held)
    assert len(set(placed)) == len(placed)
    assert await statuses(shop, placed[:: max(1, len(placed) // 50)]) == Counter(
        {"pending": len(placed[:: max(1, len(placed) // 50)])}
    )
    await audit_both(shop)


async def test_queued_accepts_while_the_warehouse_is_down(shop: Shop) -> None:
    await shop.create_order()  # so that the price is known
    shop.warehouse_process.kill()
    shop.restart_gateway(ORDERS_GATEWAY="queued")
    started = time.monotonic()
    placed = [await shop.create_order(order(1, 1, place), status=202) for place in (1, None) * 10]
    assert time.monotonic() - started < 10
    assert [one["items"][0]["warehouse_id"] for one in placed] == [1, None] * 10
    ids = [one["id"] for one in placed]
    assert await statuses(shop, ids) == Counter(pending_reservation=20)
    shop.start_warehouse_again()

    async def all_are_held() -> bool:
        return await statuses(shop, ids) == Counter(pending=20)

    await until(all_are_held)
    seen = await shop.call("GET", f"/orders/{ids[-1]}", status=200)
    assert seen["items"][0]["warehouse_id"] == seen["reservations"][0]["warehouse_id"] == 1
    await audit_both(shop)


async def test_200_orders_in_flight_against_a_dead_warehouse(shop: Shop) -> None:
    """Each client is answered within its deadline and a second more, then quickly; nothing leaks."""
    shop.restart_gateway(ORDERS_GATEWAY="grpc", ORDERS_RESERVE_DEADLINE_SECONDS="2")
    await shop.create_order(order(1))
    before = await shop.levels()
    shop.warehouse_process.kill()

    async def post() -> tuple[int, float]:
        began = time.monotonic()
        async with session.post(f"{shop.base_url}/orders", json=order(1)) as response:
            await response.read()
            if response.status == 503:
                assert int(response.headers["Retry-After"]) >= 1
            return response.status, time.monotonic() - began

    headers = {"X-API-Key": DEVELOPMENT_API_KEY}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        answers = await asyncio.gather(*(post() for _ in range(200)))
        assert {status for status, _ in answers} <= {503, 504}
        slowest = sorted(seconds for _, seconds in answers)[-5:]
        assert slowest[-1] < 2 + 1, slowest
        status, seconds = await post()
        assert (status, seconds < 0.5) == (503, True)
    await asyncio.to_thread(shop.start_warehouse_again)

    async def is_clean() -> bool:
        return await shop.levels() == before

    await until(is_clean)
    await until_settled(shop)
    assert await shop.levels() == before
    await audit_both(shop)


async def until_settled(shop: Shop) -> None:
    """No order waits for its hold any more."""

    async def none_waits() -> bool:
        async with shop.session.get(f"{shop.base_url}/orders?status=pending_reservation") as response:
            return bool((await response.json())["meta"]["total"] == 0)

    await until(none_waits)


async def test_the_mode_is_switched_at_run_time_for_all_processes(shop: Shop) -> None:
    _, other_url = shop.start_gateway()
    assert (await shop.create_order())["status"] == "pending"
    switched = await shop.call("PUT", "/config/warehouse", {"mode": "queued"}, status=200)
    assert (switched["mode"], switched["configured"]) == ("queued", "grpc")
    await shop.create_order(status=202)

    async def other_follows() -> bool:
        try:
            async with shop.session.get(f"{other_url}/config/warehouse") as response:
                return bool((await response.json())["data"]["mode"] == "queued")
        except aiohttp.ClientError:
            return False

    await until(other_follows)
    shop.restart_gateway()
    assert (await shop.call("GET", "/config/warehouse", status=200))["mode"] == "queued"
    await shop.call("PUT", "/config/warehouse", {"mode": "grpc"}, status=200)
    assert (await shop.create_order())["status"] == "pending"


async def audit_orders(shop: Shop, *options: str) -> tuple[int, str]:
    """Exit status and output of the orders' audit."""
    settings = {
        "ORDERS_DATABASE_URL": shop.orders_url,
        "ORDERS_WAREHOUSE_TARGET": shop.target,
        "ORDERS_PROFILE": "development",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "order_gateway", "audit", *options),
        cwd=ROOT,
        env=clean_environment(settings),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_audit_names_the_orders_concerned_and_finishes_them(shop: Shop) -> None:
    good, lost = await shop.create_order(), await shop.create_order()
    await shop.warehouse.cancel(reservation_id=lost["reservations"][0]["reservation_id"], reason="by hand")
    status, output = await audit_orders(shop)
    assert status == 1
    assert f"order {lost['id']} (pending, stock held): is not held" in output
    assert f"order {good['id']} " not in output
    status, output = await audit_orders(shop, "--repair")
    assert (status, output.splitlines()[-1]) == (0, "orders: clean; 2 checked, 0 still have a step to be done")
    assert (await shop.call("GET", f"/orders/{lost['id']}", status=200))["cancellation_reason"] == "admin"
    assert (await audit_orders(shop))[0] == 0
    shop.warehouse_process.kill()
    assert (await audit_orders(shop))[0] == 3
