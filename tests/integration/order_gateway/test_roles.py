"""Background roles: what a process was not given it leaves to another one, and it can be seen who has which."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.kits.orders_api import ORDER
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
DECIDED_SECONDS = 20


async def gateway(processes: Processes, url: str, target: str, roles: str) -> str:
    """The base URL of a process with these roles."""
    settings = {"ORDERS_BACKGROUND_ROLES": roles, "ORDERS_GATEWAY": "queued"}
    _process, base_url = await asyncio.to_thread(processes.order_gateway, url, target, settings=settings)
    return base_url


async def told(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        assert response.status == 200
        return await response.json()


async def metric(session: aiohttp.ClientSession, base_url: str, start: str) -> dict[str, float]:
    """The values of a metric, by its labels."""
    async with session.get(base_url.removesuffix("/api/v1") + "/metrics") as response:
        lines = [line.removeprefix(start).rpartition(" ") for line in (await response.text()).splitlines()
                 if line.startswith(f"{start}{{")]  # fmt: skip
    return {labels: float(value) for labels, _, value in lines}


async def test_what_one_process_does_not_do_another_one_does(
    processes: Processes, warehouse_database_url: str, orders_database_url: str
) -> None:
    _warehouse, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    front = await gateway(processes, orders_database_url, target, "[]")
    async with aiohttp.ClientSession(headers=KEY) as session:
        async with session.post(f"{front}/orders", json=ORDER) as response:
            assert response.status == 202
            order = f"{front}/orders/{(await response.json())['data']['id']}"
        # It takes orders, but it has nobody who sends them on.
        assert set((await metric(session, front, "order_gateway_background_role")).values()) == {0}
        assert "relay" not in str(await metric(session, front, "order_gateway_background_task_well"))
        assert (await told(session, f"{order}?wait=1"))["data"]["status"] == "pending_reservation"
        back = await gateway(processes, orders_database_url, target, '["relay"]')
        decided = await told(session, f"{order}?wait={DECIDED_SECONDS}")
        assert decided["data"]["status"] == "pending"
        roles = await metric(session, back, "order_gateway_background_role")
        assert {labels for labels, has in roles.items() if has} == {'{role="relay"}'}
        assert (await metric(session, back, "order_gateway_background_task_well"))['{task="relay"}'] == 1
        assert (await told(session, back.removesuffix("/api/v1") + "/ready"))["data"]["checks"]["background"]["ok"]


async def test_a_role_that_is_none_is_refused_at_the_start(processes: Processes) -> None:
    process = processes.launch(
        "order_gateway", {"ORDERS_DATABASE_URL": "mysql://u@127.0.0.1:1/x", "ORDERS_BACKGROUND_ROLES": '["relais"]'}
    )
    await asyncio.to_thread(lambda: process._process and process._process.wait(30))
    assert process.exit_status == 2
    assert "ORDERS_BACKGROUND_ROLES" in process.log_tail()
    assert "relay" in process.log_tail()
