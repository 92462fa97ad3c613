"""A node of a cluster dies, stands still, comes back, is alone: no answer is lost, and those without one ask again."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random

import pymysql
import pytest
import pytest_asyncio

from service_kit.database import atomic_packet
from service_kit.database.database import Database, DatabaseAway, DatabaseSettings
from tests.faults.conftest import MakeUrls, OpenSession
from tests.kits.galera import EVICTION_SECONDS, GaleraCluster
from tests.kits.processes import ROOT, clean_environment
from tests.kits.several_nodes import (
    PATIENCE_SECONDS,
    PRODUCTS,
    Told,
    ask,
    everything_is_as_told,
    stock_up,
)
from tests.kits.waiting import until
from tests.kits.warehouse_kit import Calls, No, fresh, outcome, reserve, serving, sql
from warehouse.stock.commands import Line, Reserve
from warehouse.stock.records import State
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.galera
Start = Callable[[Callable[[], None]], Awaitable[None]]
TTL = 3_600_000_000
IMPATIENT = DatabaseSettings(connect_timeout_seconds=1, tries=3, retry_for_seconds=1, transaction_timeout_seconds=2)
CALL_SECONDS = 4
"""After so long a caller gives up one server and asks another."""
CALLERS = 12


@pytest_asyncio.fixture
async def urls(make_urls: MakeUrls) -> list[str]:
    """The warehouse's database, at each node, with many units of each product."""
    made = make_urls("warehouse")
    await stock_up(made[0])
    return made


@pytest_asyncio.fixture
async def start(cluster_hands: Executor) -> Start:
    """Calls what starts nodes, from a thread that lives as long as they do."""
    return partial(asyncio.get_running_loop().run_in_executor, cluster_hands)


@dataclass
class Callers:
    """Callers who ask another server, for the same, when one does not answer.

    Attributes:
        answered: the states of holds, as they were told.
        asked_again: how often a call had to be repeated.
    """

    servers: Sequence[Calls]
    told: Told = field(default_factory=Told)
    asked_again: int = 0

    async def go_on(self, number: int, is_over: asyncio.Event) -> None:
        """One hold after the other, until the event."""
        chance = Random(number)
        while not is_over.is_set():
            request = reserve((chance.choice(PRODUCTS), 1, 1))
            end = time.monotonic() + PATIENCE_SECONDS
            server = self.servers[chance.randrange(len(self.servers))]
            while isinstance(answer := await outcome(ask(server, request, CALL_SECONDS)), No):
                assert answer.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"), answer
                assert time.monotonic() < end, answer
                self.asked_again += 1
                server = self.servers[chance.randrange(len(self.servers))]
                await asyncio.sleep(chance.uniform(0, 0.1))
            self.told.states[answer.reservation.reservation_id].add(State.RESERVED)

    async def until_more_answers(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted, end = len(self.told.states) + count, time.monotonic() + PATIENCE_SECONDS
        while len(self.told.states) < wanted:
            assert time.monotonic() < end, "nobody is answered any more"
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("blow", ["killed", "frozen for a moment", "frozen until the others go on"])
async def test_no_answer_is_lost_with_a_node(urls: list[str], cluster: GaleraCluster, start: Start, blow: str) -> None:
    """The others go on, with all that was answered; the node comes back and has it all, too."""
    node, is_over = cluster.nodes[1], asyncio.Event()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(url, database=IMPATIENT)) for url in urls]
        callers = Callers(servers)
        tasks = [asyncio.ensure_future(callers.go_on(number, is_over)) for number in range(CALLERS)]
        await callers.until_more_answers(100)
        if blow == "killed":
            node.kill()
            await callers.until_more_answers(100)
            await start(node.start)
        else:
            node.freeze()
            # Within the first second nobody gives it up.
            await asyncio.sleep(1 if blow == "frozen for a moment" else EVICTION_SECONDS + 2)
            if blow != "frozen for a moment":
                await callers.until_more_answers(100)
            node.thaw()
        await start(cluster.wait_until_whole)
        await callers.until_more_answers(100)
        is_over.set()
        await asyncio.gather(*tasks)
    print(f"{len(callers.told.states)} holds answered, {callers.asked_again} calls repeated")
    await everything_is_as_told(callers.told, urls)


async def test_a_survivor_without_quorum_is_away_until_it_has_one(
    urls: list[str], cluster: GaleraCluster, start: Start
) -> None:
    """No data was refused, no lock is in the way, and nothing is done that the others would not know of."""
    survivor = cluster.nodes[2]
    databases = [Database(urls[2], IMPATIENT) for _ in range(2)]
    connected, fresh_one = map(StockStore, databases)
    told = Told()
    told.note((await connected.process([a_reserve()]))[0])
    waiting = a_reserve()
    for node in cluster.nodes[:2]:
        node.kill()
    try:
        await until(lambda: asyncio.to_thread(lambda: survivor.status("wsrep_cluster_status") == "non-Primary"))
        for store in (connected, fresh_one):
            began = time.monotonic()
            with pytest.raises(DatabaseAway):
                await store.process([waiting])
            assert time.monotonic() < began + 10
    finally:
        sql(survivor.url, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
        await start(cluster.wait_until_whole)
    for store, database in zip((connected, fresh_one), databases, strict=True):
        told.note((await store.process([waiting]))[0])
        await store.close()
        await database.close()
    assert len(told.states) == 2
    await everything_is_as_told(told, urls)


def a_reserve() -> Reserve:
    """One unit for one order."""
    return Reserve(fresh("request"), fresh("order"), (Line(1, 1, 1),), TTL)


async def test_a_lock_wait_is_not_taken_for_a_node_that_is_cut_off(urls: list[str], open_session: OpenSession) -> None:
    """Both have the same number."""
    holder, waiter = open_session(urls[0]), open_session(urls[0])
    lock = "SELECT 1 FROM stock_levels FOR UPDATE"
    await holder.execute(f"{atomic_packet.BEGIN};{lock}", {})
    await waiter.execute("SET SESSION innodb_lock_wait_timeout = 1", {})
    for attempt in (
        waiter.execute(f"{atomic_packet.BEGIN};{lock}", {}),
        atomic_packet.transact(waiter, [lock], {}),
    ):
        with pytest.raises(pymysql.err.OperationalError) as raised:
            await attempt
        assert raised.value.args[0] == 1205
        await waiter.rollback()
    await holder.rollback()


async def test_programs_that_migrate_at_several_nodes_take_turns(cluster: GaleraCluster) -> None:
    """A locked row at one node keeps nobody out at another, and half of two migrations is none."""
    cluster.wait_until_whole()
    urls = cluster.urls(fresh("warehouse").replace("-", "_"))
    command = [sys.executable, "-m", "warehouse", "migrate"]
    running = [
        await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=clean_environment({"WAREHOUSE_DATABASE_URL": url}),
            stderr=asyncio.subprocess.PIPE,
        )
        for url in urls
    ]
    told = await asyncio.gather(*(process.communicate() for process in running))
    assert [process.returncode for process in running] == [0, 0, 0], told
    async with serving(urls[2]) as calls:
        await calls.keep({(1, 1): 1})
