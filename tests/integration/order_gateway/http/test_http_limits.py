"""Bounds of the order service, on real processes: requests per key, streams, and what a stop does with open streams."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from development.service_process import ServiceProcess
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
STOP_SECONDS_MAX = 5
LIMITS = {
    "ORDERS_REQUESTS_PER_SECOND_MAX": "20",
    "ORDERS_EVENT_STREAMS_MAX": "1",
    "ORDERS_SHUTDOWN_GRACE_SECONDS": "30",
    "ORDERS_EVENT_HEARTBEAT_SECONDS": "0.2",
}
ORDER = {
    "user_id": 7,
    "shipping_address": "Street 1",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 1}],
}


@dataclass
class Tight:
    """A service with tight limits, and a client."""

    process: ServiceProcess
    base_url: str
    session: aiohttp.ClientSession

    async def order(self) -> str:
        async with self.session.post(f"{self.base_url}/orders", json=ORDER) as response:
            assert response.status == 201
            return f"{self.base_url}{response.headers['Location'].removeprefix('/api/v1')}"


@pytest.fixture
async def tight(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Tight]:
    _process, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    process, base_url = await asyncio.to_thread(
        lambda: processes.order_gateway(orders_database_url, target, settings=LIMITS)
    )
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield Tight(process, base_url, session)


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(tight: Tight) -> None:
    async def ask() -> tuple[int, str | None]:
        async with tight.session.get(f"{tight.base_url}/orders") as response:
            return response.status, response.headers.get("Retry-After")

    answers = await asyncio.gather(*(ask() for _ in range(60)))
    assert {status for status, _ in answers} == {200, 429}
    assert {wait for status, wait in answers if status == 429} == {"1"}
    assert sum(status == 200 for status, _ in answers) >= 20


async def test_streams_are_bounded_and_end_with_the_service(tight: Tight) -> None:
    order = await tight.order()
    async with tight.session.get(f"{order}/events") as stream:
        assert stream.status == 200
        async with tight.session.get(f"{order}/events") as second:
            assert second.status == 429
            assert second.headers["Retry-After"]
        started = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(tight.process.stop))
        assert (await stream.text()).count("data: ") == 2
        await stopping
    assert time.monotonic() - started < STOP_SECONDS_MAX
