"""Orders from stock to their end, with both services as real processes, and what is left when one of them dies."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from stockwarden_client import ReservationState, line
from tests.kits.processes import Processes
from tests.kits.shop_processes import Shop, order, until_instant
from tests.kits.waiting import until
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Shop]:
    shop = Shop(processes, warehouse_database_url, orders_database_url)
    try:
        await load_demo(shop.target, "")
        yield shop
    finally:
        await shop.close()


async def test_the_main_job(shop: Shop) -> None:
    placed = await shop.create_order()
    assert placed["status"] == "pending"
    assert placed["total_amount"] == 39.98
    assert await shop.levels() == (100, 2)
    paid = await shop.call("POST", f"/orders/{placed['id']}/payment", {}, status=200)
    assert paid["status"] == "paid"
    assert await shop.levels() == (98, 0)

    other = await shop.create_order()
    await shop.call("PATCH", f"/orders/{other['id']}/status", {"status": "cancelled"}, status=200)
    assert await shop.levels() == (98, 0)

    returned = await shop.call("POST", f"/orders/{placed['id']}/cancel", {}, status=200)
    assert returned["status"] == "cancelled"
    assert await shop.levels() == (100, 0)

    short = await shop.create_order(order(101), status=409)
    assert short["code"] == "INSUFFICIENT_STOCK"
    assert short["details"] == [{"product_id": 1, "warehouse_id": 1, "requested": 101, "available": 100}]
    assert (await shop.create_order(order(1, 99), status=404))["code"] == "PRODUCT_NOT_FOUND"
    assert (await shop.create_order(order(1, 1, 99), status=404))["code"] == "WAREHOUSE_NOT_FOUND"
    assert (await shop.create_order(order(1, 1, None)))["items"][0]["warehouse_id"] == 1
    await shop.audit()


async def test_a_declined_payment_gives_the_stock_back(shop: Shop) -> None:
    placed = await shop.create_order()
    path = f"/orders/{placed['id']}"
    declined = await shop.call("POST", f"{path}/pay", {"payment_reference": "simulate-decline"}, status=422)
    assert declined["code"] == "PAYMENT_DECLINED"
    assert (await shop.call("GET", path, status=200))["cancellation_reason"] == "payment_declined"
    assert await shop.levels() == (100, 0)


async def test_nobody_pays(shop: Shop) -> None:
    shop.restart_gateway(ORDERS_PAYMENT_WINDOW_SECONDS="1", ORDERS_HOLD_GRACE_SECONDS="30")
    placed = await shop.create_order()

    async def is_cancelled() -> bool:
        seen = await shop.call("GET", f"/orders/{placed['id']}", status=200)
        return bool(seen["cancellation_reason"] == "payment_expired") and await shop.levels() == (100, 0)

    await until(is_cancelled)
    await shop.call("POST", f"/orders/{placed['id']}/payment", {}, status=409)


async def test_paying_just_before_and_just_after_the_deadline(shop: Shop) -> None:
    shop.restart_gateway(ORDERS_PAYMENT_WINDOW_SECONDS="2", ORDERS_HOLD_GRACE_SECONDS="30")
    in_time, too_late = await shop.create_order(), await shop.create_order()
    await until_instant(in_time["payment_deadline"], -1)
    await shop.call("POST", f"/orders/{in_time['id']}/payment", {}, status=200)
    await until_instant(too_late["payment_deadline"], 1)
    await shop.call("POST", f"/orders/{too_late['id']}/payment", {}, status=409)

    async def is_released() -> bool:
        return await shop.levels() == (98, 0)

    await until(is_released)


async def test_a_slow_payment_blocks_nobody_and_finds_its_stock_or_is_refunded(shop: Shop) -> None:
    """The provider's two answers take longer than the hold lasts: it is taken again where the stock is still there."""
    shop.restart_gateway(
        ORDERS_PAYMENT_WINDOW_SECONDS="1", ORDERS_HOLD_GRACE_SECONDS="1", ORDERS_SIMULATOR__DELAY_SECONDS="2.5"
    )
    lucky, unlucky = await shop.create_order(order(2, 1)), await shop.create_order(order(2, 2))
    payments = [
        asyncio.create_task(shop.call("POST", f"/orders/{lucky['id']}/payment", {}, status=200)),
        asyncio.create_task(shop.call("POST", f"/orders/{unlucky['id']}/payment", {}, status=409)),
    ]

    async def is_expired() -> bool:
        return await shop.levels(2) == (100, 0) and await shop.levels(1) == (100, 0)

    await until(is_expired)
    started = time.monotonic()
    await shop.warehouse.reserve("somebody-else", [line(2, 1, 100)], request_id="somebody-else")
    await shop.call("GET", f"/orders/{lucky['id']}", status=200)
    assert time.monotonic() - started < 2
    paid, refused = await asyncio.gather(*payments)
    assert paid["status"] == "paid"
    assert refused["code"] == "RESERVATION_EXPIRED"
    assert await shop.levels(1) == (98, 0)
    assert await shop.levels(2) == (100, 100)
    seen = await shop.call("GET", f"/orders/{unlucky['id']}", status=200)
    assert seen["cancellation_reason"] == "reservation_expired"
    await shop.audit()


async def test_many_customers_want_the_last_units(shop: Shop) -> None:
    async def buy() -> int:
        async with shop.session.post(f"{shop.base_url}/orders", json=order(1)) as response:
            await response.read()
            return response.status

    statuses = await asyncio.gather(*(buy() for _ in range(130)))
    assert sorted(set(statuses)) == [201, 409]
    assert statuses.count(201) == 100
    assert await shop.levels() == (100, 100)
    await shop.audit()


async def test_the_warehouse_dies_and_comes_back(shop: Shop) -> None:
    waiting, paying = await shop.create_order(), await shop.create_order()
    shop.warehouse_process.kill()
    started = time.monotonic()
    away = await shop.create_order(status=503)
    assert away["code"] in ("WAREHOUSE_UNAVAILABLE", "WAREHOUSE_TIMEOUT")
    assert time.monotonic() - started < 5
    paid = await shop.call("POST", f"/orders/{paying['id']}/payment", {}, status=200)
    assert paid["status"] == "paid"
    cancelled = await shop.call("POST", f"/orders/{waiting['id']}/cancel", {}, status=200)
    assert cancelled["status"] == "cancelled"
    shop.start_warehouse_again()

    async def is_settled() -> bool:
        return await shop.levels() == (98, 0)

    await until(is_settled)
    await shop.audit()


async def test_the_gateway_dies_under_load(shop: Shop) -> None:
    """Whatever the gateway was doing, its successor ends every order in agreement with the warehouse."""
    answered: list[int] = []

    async def customer() -> None:
        for _ in range(10):
            try:
                placed = await shop.create_order(order(1))
                answered.append(placed["id"])
                await shop.call("POST", f"/orders/{placed['id']}/payment", {}, status=200)
            except aiohttp.ClientError:
                return

    customers = [asyncio.create_task(customer()) for _ in range(8)]

    async def some_answered() -> bool:
        return len(answered) >= 10

    await until(some_answered)
    shop.gateway_process.kill()
    await asyncio.gather(*customers)
    shop.restart_gateway(ORDERS_PAYMENT_WINDOW_SECONDS="900")

    async def counts() -> dict[str, int]:
        found: dict[str, int] = {}
        for order_id in range(1, 101):
            async with shop.session.get(f"{shop.base_url}/orders/{order_id}") as response:
                if response.status == 404:
                    continue
                seen = (await response.json())["data"]
                found[seen["status"]] = found.get(seen["status"], 0) + 1
        return found

    async def agree() -> bool:
        found = await counts()
        on_hand, reserved = await shop.levels()
        return (
            not found.get("pending_reservation")
            and reserved == found.get("pending", 0)
            and on_hand == 100 - found.get("paid", 0)
        )

    await until(agree)
    for order_id in answered:
        seen = await shop.call("GET", f"/orders/{order_id}", status=200)
        assert seen["status"] in ("pending", "paid")
        hold = await shop.warehouse.get_reservation(seen["reservations"][0]["reservation_id"])
        expected = "COMMITTED" if seen["status"] == "paid" else "RESERVED"
        assert ReservationState.Name(hold.state) == f"RESERVATION_STATE_{expected}"
    await shop.audit()
