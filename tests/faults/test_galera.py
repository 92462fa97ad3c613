"""Several nodes write at the same time: what was told is so on all, whatever one does to a transaction of another."""

import asyncio
import os
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from generated.warehouse.v1 import warehouse_pb2 as pb
from service_kit import atomic_packet
from service_kit.database import Database, DatabaseAway, DatabaseSettings, error_number
from tests.faults.conftest import MakeUrls, OpenDatabase, OpenSession
from tests.faults.galera import EVICTION_SECONDS, GaleraCluster
from tests.warehouse_kit import Calls, No, assert_clean, cancel, fresh, outcome, reserve, scalar, serving, sql
from warehouse.commands import Answer, Cancel, Command, Commit, Line, Outcome, Reserve
from warehouse.records import State
from warehouse.store import StockStore

pytestmark = pytest.mark.galera
Start = Callable[[Callable[[], None]], Awaitable[None]]
CLUSTER_SECONDS = float(os.environ.get("CLUSTER_SECONDS") or 15)
"""How long several nodes write at once."""
STORES_PER_NODE = 2
PRODUCTS = (1, 2, 3)
UNITS = 900_000
TTL = 3_600_000_000
IMPATIENT = DatabaseSettings(connect_timeout_seconds=1, tries=3, retry_for_seconds=1, transaction_timeout_seconds=2)
CALL_SECONDS = 4
"""After so long a caller gives up one server and asks another."""
PATIENCE_SECONDS = 60
CALLERS = 12

ROW = "UPDATE things SET value = 1 WHERE id = 1"
OTHER_ROW = "UPDATE things SET value = 1 WHERE id = 2"
NEW_ROW = "INSERT INTO things VALUES (3, 1)"
PAUSE = "DO SLEEP(5)"
PACKETS: dict[str, tuple[str, list[str]]] = {
    "in the first packet": (f"{ROW};{PAUSE}", [OTHER_ROW, NEW_ROW]),
    "in the packet that commits": (ROW, [OTHER_ROW, PAUSE, NEW_ROW]),
    "before its COMMIT": (ROW, [OTHER_ROW, NEW_ROW, PAUSE]),
    "in a packet that is the whole transaction": ("", [ROW, PAUSE, OTHER_ROW, NEW_ROW]),
    "before the COMMIT of such a one": ("", [ROW, OTHER_ROW, NEW_ROW, PAUSE]),
}
"""What is sent first, and then; and where the other node comes in between."""


@dataclass
class Told:
    """What callers were told.

    Attributes:
        states: by reservation, each state that was answered.
        refusals: how often each was.
    """

    states: defaultdict[str, set[State]] = field(default_factory=lambda: defaultdict(set))
    refusals: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: Outcome | Exception) -> list[str]:
        """Remember an outcome; the reservations in it."""
        if isinstance(outcome, Exception):
            raise outcome
        if not isinstance(outcome, Answer):
            self.refusals[outcome.reason] += 1
            return []
        for reservation in outcome.reservations:
            self.states[reservation.reservation_id].add(reservation.state)
        return [reservation.reservation_id for reservation in outcome.reservations]

    def differences(self, url: str) -> list[tuple[str, set[State], str | None]]:
        """Where the database at `url` says otherwise, also by having more."""
        stored: dict[str, str] = dict(sql(url, "SELECT reservation_id, state FROM reservations"))
        ends = {name: states - {State.RESERVED} or states for name, states in self.states.items()}
        return [
            (name, ends.get(name, set()), stored.get(name))
            for name in ends.keys() | stored.keys()
            if stored.get(name) not in ends.get(name, set())
        ]


@pytest_asyncio.fixture
async def urls(make_urls: MakeUrls) -> list[str]:
    """The warehouse's database, at each node, with many units of each product."""
    made = make_urls("warehouse")
    async with serving(made[0]) as calls:
        await calls.keep({(product, 1): UNITS for product in PRODUCTS})
    return made


@pytest_asyncio.fixture
async def start(cluster_hands: Executor) -> Start:
    """Calls what starts nodes, from a thread that lives as long as they do."""
    return partial(asyncio.get_running_loop().run_in_executor, cluster_hands)


async def until(is_so: Callable[[], bool], explain: Callable[[], object] = lambda: None) -> None:
    """Wait, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < deadline, explain()
        await asyncio.sleep(0.02)


def things(url: str) -> list[tuple[Any, ...]]:
    """The rows of the table, in one moment."""
    return sql(url, "SELECT id, value FROM things ORDER BY id")


@pytest_asyncio.fixture
async def torn_urls(cluster: GaleraCluster) -> list[str]:
    """A database with a table of two rows, at each node."""
    sql(f"{cluster.nodes[0].url}/mysql", "CREATE DATABASE IF NOT EXISTS torn")
    ours, theirs, third = cluster.urls("torn")
    sql(ours, "CREATE OR REPLACE TABLE things (id INT PRIMARY KEY, value INT)")
    sql(ours, "INSERT INTO things VALUES (1, 0), (2, 0)")
    await until(lambda: things(theirs) == [(1, 0), (2, 0)])
    return [ours, theirs, third]


@pytest.mark.parametrize("when", PACKETS)
async def test_a_transaction_that_another_node_ends_leaves_nothing(
    torn_urls: list[str], open_session: OpenSession, when: str
) -> None:
    """Sent one after the other, the statements behind the pause would commit by themselves, or COMMIT would say OK."""
    ours, theirs, _ = torn_urls
    first, then = PACKETS[when]
    session = open_session(ours)

    async def transaction() -> None:
        if not first:
            await atomic_packet.transact(session, then, {})
            return
        await session.execute(f"{atomic_packet.BEGIN};{first}", {})
        await atomic_packet.finish(session, then, {})

    trying = asyncio.ensure_future(transaction())
    pausing = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep'"
    await until(lambda: bool(scalar(ours, pausing)))
    await asyncio.to_thread(sql, theirs, "UPDATE things SET value = 9 WHERE id = 1")
    [error] = await asyncio.gather(trying, return_exceptions=True)
    assert isinstance(error, Exception), "a transaction that was ended was told OK"
    assert error_number(error) == 1213
    await session.rollback()
    await until(lambda: things(ours) == things(theirs) == [(1, 9), (2, 0)])


async def test_an_ended_transaction_is_noticed_by_the_next_packet(
    torn_urls: list[str], open_session: OpenSession
) -> None:
    ours, theirs, _ = torn_urls
    session = open_session(ours)
    await session.execute(f"{atomic_packet.BEGIN};{ROW}", {})
    await asyncio.to_thread(sql, theirs, "UPDATE things SET value = 9 WHERE id = 1")
    await until(lambda: things(ours)[0] == (1, 9))
    with pytest.raises(Exception, match="1213"):
        await atomic_packet.finish(session, [OTHER_ROW, NEW_ROW], {})
    await session.rollback()
    assert things(ours) == [(1, 9), (2, 0)]


async def test_holds_of_several_nodes_are_what_was_told(urls: list[str], open_database: OpenDatabase) -> None:
    """Two servers per node on the same three levels; what each answered is what every node has in the end."""
    stores = [StockStore(open_database(url)) for url in urls for _ in range(STORES_PER_NODE)]
    told, held, end = Told(), list[str](), time.monotonic() + CLUSTER_SECONDS

    async def serve(number: int, store: StockStore) -> None:
        chance = Random(number)
        while time.monotonic() < end:
            commands = [_some_command(chance, held) for _ in range(chance.randint(1, 6))]
            for command, ended in zip(commands, await store.process(commands), strict=True):
                ids = told.note(ended)
                held.extend(ids if isinstance(command, Reserve) else ())

    await asyncio.gather(*(serve(number, store) for number, store in enumerate(stores)))
    await asyncio.gather(*(store.close() for store in stores))
    print(f"{len(told.states)} holds answered")
    # Who closes a hold has it from an answer, perhaps of another node: it is never unknown, nor closed already.
    assert told.refusals == {}
    assert len(told.states) > 5 * CLUSTER_SECONDS
    await everything_is_as_told(told, urls)


def _some_command(chance: Random, held: list[str]) -> Command:
    if held and chance.random() < 0.5:
        kind = chance.choice((Commit, Cancel))
        return kind(fresh("request"), reservation_id=held.pop(chance.randrange(len(held))))
    products = sorted(chance.sample(PRODUCTS, chance.choice((1, 1, 2))))
    lines = tuple(Line(product, 1, chance.randint(1, 3)) for product in products)
    return Reserve(fresh("request"), fresh("order"), lines, TTL)


async def everything_is_as_told(told: Told, urls: Sequence[str]) -> None:
    """Every node has what was told, no more, and adds up."""
    for url in urls:
        # This look is at what the node has, which may still be on its way there; the audit waits for it.
        await until(lambda url=url: not told.differences(url), lambda url=url: told.differences(url))
        await assert_clean(url)


async def test_what_was_written_at_one_node_is_seen_at_another(urls: list[str]) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(url)) for url in urls]
        for number in range(200):
            writer, reader, closer = (servers[(number + place) % 3] for place in range(3))
            held = await writer.hold((1, 1, 1))
            assert await reader.state(held.reservation_id) == held.state
            assert (await reader.level())[1] == 1
            await closer.holds.Cancel(cancel(reservation_id=held.reservation_id))
            assert (await reader.level())[1] == 0


async def test_a_request_sent_to_all_nodes_at_once_has_one_effect(urls: list[str]) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(url)) for url in urls]
        for _ in range(30):
            request = reserve((1, 1, 1), (2, 1, 1))
            answers = await asyncio.gather(*(_answer(server, request) for server in servers))
            assert len({answer.reservation.reservation_id for answer in answers}) == 1
        assert await servers[0].level() == (UNITS, 30)
    for url in urls:
        await assert_clean(url)


async def _answer(server: Calls, request: pb.ReserveRequest, timeout: float | None = None) -> pb.ReserveResponse:
    return await server.holds.Reserve(request, timeout=timeout)


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
            while isinstance(answer := await outcome(_answer(server, request, CALL_SECONDS)), No):
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
    urls: list[str], cluster: GaleraCluster, start: Start, open_database: OpenDatabase
) -> None:
    """Error 1047: no data was refused, and nothing is done that the others would not know of."""
    survivor = cluster.nodes[2]
    impatient = Database(urls[2], IMPATIENT)
    store, patient = StockStore(impatient), StockStore(open_database(urls[2]))
    reserving = Reserve(fresh("request"), fresh("order"), (Line(1, 1, 1),), TTL)
    for node in cluster.nodes[:2]:
        node.kill()
    await until(lambda: survivor.status("wsrep_cluster_status") == "non-Primary")
    began = time.monotonic()
    with pytest.raises(DatabaseAway):
        await store.process([reserving])
    assert time.monotonic() < began + 10
    sql(survivor.url, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
    told = Told()
    for who in (store, patient):
        [ended] = await who.process([reserving])
        told.note(ended)
    await start(cluster.wait_until_whole)
    await asyncio.gather(store.close(), patient.close())
    await impatient.close()
    assert len(told.states) == 1
    await everything_is_as_told(told, urls)
