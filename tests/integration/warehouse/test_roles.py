"""Background roles of the warehouse: a process that was given none ends no hold; another one does."""

import asyncio
import time

import aiohttp
import pytest

from development.free_ports import free_port
from tests.kits.warehouse_kit import make_overdue, serving, sql

pytestmark = pytest.mark.sql
SWEEP_SECONDS = 0.05


async def scraped(address: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as response:
        return await response.text()


async def test_a_process_without_the_role_ends_no_hold(warehouse_database_url: str) -> None:
    def state() -> str:
        [(found,)] = sql(warehouse_database_url, "SELECT state FROM reservations")
        return str(found)

    front, back = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with serving(
        warehouse_database_url, metrics_listen=front, sweep_seconds=SWEEP_SECONDS, background_roles=[]
    ) as calls:
        await calls.keep({(1, 1): 5})
        held = await calls.hold((1, 1, 2))
        await make_overdue(warehouse_database_url, held.reservation_id)
        text = await scraped(front)
        assert 'warehouse_background_role{role="sweeper"} 0.0' in text
        assert 'warehouse_background_task_well{task="sweeper"}' not in text
        before = await asyncio.to_thread(state)
        async with serving(warehouse_database_url, metrics_listen=back, sweep_seconds=SWEEP_SECONDS):
            text = await scraped(back)
            assert 'warehouse_background_role{role="sweeper"} 1.0' in text
            assert 'warehouse_background_task_well{task="sweeper"} 1.0' in text
            deadline = time.monotonic() + 10
            while await asyncio.to_thread(state) == before:
                assert time.monotonic() < deadline, "nobody came"
                await asyncio.sleep(0.02)
    assert await asyncio.to_thread(state) == "EXPIRED"
