"""The warehouse as real processes: many callers for little stock, kill -9 under load, workers, a dead database."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from development.local_server import LocalServer
from development.service_process import ServiceProcess
from service_kit.database import migrating
from stockwarden_client import ClientSettings, InsufficientStock, WarehouseClient, line
from stockwarden_client.v1 import stock_pb2 as stock
from tests.kits.processes import Processes
from tests.kits.warehouse_kit import (
    No,
    assert_clean,
    calling,
    fresh,
    outcome,
    reserve,
    scalar,
    sql,
)

pytestmark = [pytest.mark.e2e, pytest.mark.sql]


async def open_shop(target: str, quantity: int) -> None:
    async with calling(target) as calls:
        await calls.keep({(1, 1): quantity})


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_thousand_callers_for_a_hundred_units(
    warehouse_database_url: str, processes: Processes, servers: int
) -> None:
    targets = [processes.warehouse(warehouse_database_url)[1] for _ in range(servers)]
    await open_shop(targets[0], 100)
    async with calling(targets[0]) as one, calling(targets[-1]) as other:
        requests = [reserve((1, 1, 1)) for _ in range(1000)]
        ends = await asyncio.gather(
            *(outcome((one, other)[number % 2].holds.Reserve(request)) for number, request in enumerate(requests))
        )
    told = Counter(ended.reason if isinstance(ended, No) else "held" for ended in ends)
    assert told == {"held": 100, "INSUFFICIENT_STOCK": 900}
    [(on_hand, reserved)] = sql(warehouse_database_url, "SELECT on_hand, reserved FROM stock_levels")
    assert (on_hand, reserved) == (100, 100)
    await assert_clean(warehouse_database_url)


class Shoppers:
    """Callers who hold, sell and give back through the client library, and remember what they were told."""

    def __init__(self, target: str) -> None:
        self.settings = ClientSettings(target=target, deadline_seconds=60, attempt_timeout_seconds=2)
        self.told: dict[str, str] = {}
        self.requests = 0

    @contextlib.asynccontextmanager
    async def shopping(self, callers: int) -> AsyncIterator[None]:
        """So many callers at work; at the end of the block each of them finishes what it is at."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._shop(stopping))
            yield
            stopping.set()

    async def _shop(self, stopping: asyncio.Event) -> None:
        async with WarehouseClient(self.settings) as warehouse:
            while not stopping.is_set():
                self.requests += 1
                try:
                    held = await warehouse.reserve(
                        fresh("order"), [line(1, 1, 1)], ttl_seconds=600, request_id=fresh("request")
                    )
                except InsufficientStock:
                    continue
                self.told[held.reservation_id] = "RESERVED"
                if self.requests % 3 == 1:
                    await warehouse.commit(reservation_id=held.reservation_id)
                    self.told[held.reservation_id] = "COMMITTED"
                elif self.requests % 3 == 2:
                    await warehouse.cancel(order_id=held.order_id)
                    self.told[held.reservation_id] = "CANCELLED"

    async def more_answers(self, count: int) -> None:
        """Wait until `count` more reservations were told."""
        wanted, deadline = len(self.told) + count, time.monotonic() + 60
        while len(self.told) < wanted:
            assert time.monotonic() < deadline, "nobody is answered any more"
            await asyncio.sleep(0.02)

    def check(self, url: str) -> None:
        """All that was told is in the database, and nothing else."""
        kept = {row[0]: row[1] for row in sql(url, "SELECT reservation_id, state FROM reservations")}
        assert kept == self.told
        sold = sum(state == "COMMITTED" for state in self.told.values())
        held = sum(state == "RESERVED" for state in self.told.values())
        [(on_hand, reserved)] = sql(url, "SELECT on_hand, reserved FROM stock_levels")
        assert (on_hand, reserved) == (1_000_000 - sold, held)


async def test_kill_9_of_the_server_under_load(warehouse_database_url: str, processes: Processes) -> None:
    server, target = processes.warehouse(warehouse_database_url)
    await open_shop(target, 1_000_000)
    shoppers = Shoppers(target)
    async with shoppers.shopping(20):
        for _ in range(4):
            await shoppers.more_answers(60)
            server.kill()
            server.launch()
        await shoppers.more_answers(60)
    shoppers.check(warehouse_database_url)
    await assert_clean(warehouse_database_url)


async def test_kill_9_of_one_of_two_servers_and_of_the_database(own_server: LocalServer, processes: Processes) -> None:
    url = f"{own_server.url}/warehouse"
    migrating.upgrade(url, "warehouse")
    first, one = processes.warehouse(url)
    _, other = processes.warehouse(url)
    await open_shop(one, 1_000_000)
    shoppers = Shoppers(f"{one},{other}")
    async with shoppers.shopping(20):
        for _ in range(2):
            await shoppers.more_answers(60)
            own_server.kill()
            own_server.start()
            await shoppers.more_answers(60)
            first.kill()
            first.launch()
        await shoppers.more_answers(60)
    shoppers.check(url)
    await assert_clean(url)


def workers_of(server: ServiceProcess) -> set[int]:
    assert server.pid is not None
    return {int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()}


async def test_workers_share_the_port_and_a_dead_one_is_replaced(
    warehouse_database_url: str, processes: Processes
) -> None:
    server, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_WORKERS": "2"})
    await open_shop(target, 1_000_000)
    before = workers_of(server)
    assert len(before) == 2
    shoppers = Shoppers(target)
    async with shoppers.shopping(8):
        await shoppers.more_answers(30)
        os.kill(min(before), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while len(workers_of(server)) < 2 or workers_of(server) == before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert max(before) in workers_of(server)
        await shoppers.more_answers(30)
    shoppers.check(warehouse_database_url)
    assert await asyncio.to_thread(server.stop) == 0
    assert "worker_died" in server.log_path.read_text()
    await assert_clean(warehouse_database_url)


async def test_expired_holds_are_given_back_by_themselves(warehouse_database_url: str, processes: Processes) -> None:
    _, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_SWEEP_SECONDS": "0.1"})
    await open_shop(target, 10)
    async with calling(target) as calls:
        await calls.hold((1, 1, 4), ttl_seconds=1)
        assert await calls.level() == (10, 4)
        deadline = time.monotonic() + 10
        while await calls.level() != (10, 0):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        added = stock.AddStockRequest(request_id=fresh("more"), product_id=1, warehouse_id=1, quantity=1)
        assert (await calls.stock.AddStock(added)).stock_level.on_hand == 11
    assert scalar(warehouse_database_url, "SELECT state FROM reservations") == "EXPIRED"
