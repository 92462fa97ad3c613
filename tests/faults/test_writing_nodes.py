"""Several nodes write at the same time: what was told is so on all, whatever one does to a transaction of another.

On a Galera cluster of MariaDB servers, and on a MySQL group all of whose members take writes.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import Any

import pymysql
import pytest
import pytest_asyncio

from service_kit.batcher import SetAside
from service_kit.database import atomic_packet, migrating
from service_kit.database.database import error_number
from tests.faults.conftest import OpenDatabase, OpenSession
from tests.kits.galera import GaleraCluster
from tests.kits.mysql_group import MysqlGroup
from tests.kits.several_nodes import (
    PRODUCTS,
    UNITS,
    Told,
    answered,
    ask,
    everything_is_as_told,
    stock_up,
)
from tests.kits.waiting import until
from tests.kits.warehouse_kit import assert_clean, cancel, fresh, reserve, serving, sql
from warehouse.stock.commands import Cancel, Command, Commit, Line, Reserve
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.galera
CLUSTER_SECONDS = float(os.environ.get("CLUSTER_SECONDS") or 15)
"""How long several nodes write at once."""
STORES_PER_NODE = 2
TTL = 3_600_000_000
CONFLICTS = frozenset({1180, 1213, 3101})
"""What a transaction hears that another node has ended; all but the second only on MySQL, and only at COMMIT."""

ROW = "UPDATE things SET value = 1 WHERE id = 1"
OTHER_ROW = "UPDATE things SET value = 1 WHERE id = 2"
NEW_ROW = "INSERT INTO things VALUES (LENGTH(%(long)s), 1)"
VALUES = {"long": "x" * atomic_packet.LONG}
PAUSE = "DO SLEEP(2)"
PACKETS: dict[str, tuple[str, list[str]]] = {
    "in the first packet": (f"{ROW};{PAUSE}", [OTHER_ROW, NEW_ROW]),
    "in the packet that commits": (ROW, [OTHER_ROW, PAUSE, NEW_ROW]),
    "before its COMMIT": (ROW, [OTHER_ROW, NEW_ROW, PAUSE]),
    "in a packet that is the whole transaction": ("", [ROW, PAUSE, OTHER_ROW, NEW_ROW]),
    "before the COMMIT of such a one": ("", [ROW, OTHER_ROW, NEW_ROW, PAUSE]),
}
"""What is sent first, and then; and where the other node comes in between."""


@pytest.fixture(params=["galera", "mysql group"])
def nodes(request: pytest.FixtureRequest) -> GaleraCluster | MysqlGroup:
    """Servers that all take writes."""
    found = request.getfixturevalue("cluster" if request.param == "galera" else "group")
    assert isinstance(found, GaleraCluster | MysqlGroup)
    return found


@pytest_asyncio.fixture
async def urls(nodes: GaleraCluster | MysqlGroup) -> list[str]:
    """The warehouse's database, at each node, with many units of each product."""
    made = nodes.urls(fresh("warehouse").replace("-", "_"))
    migrating.upgrade(made[0], "warehouse")
    await stock_up(made[0])
    return made


@pytest_asyncio.fixture
async def torn_urls(nodes: GaleraCluster | MysqlGroup) -> list[str]:
    """A database with a table of two rows, at two nodes."""
    sql(nodes.urls("mysql")[0], "CREATE DATABASE IF NOT EXISTS torn")
    ours, theirs = nodes.urls("torn")[:2]
    sql(ours, "DROP TABLE IF EXISTS things")
    sql(ours, "CREATE TABLE things (id INT PRIMARY KEY, value INT)")
    sql(ours, "INSERT INTO things VALUES (1, 0), (2, 0)")
    await until(lambda: asyncio.to_thread(lambda: _is_there(theirs) and things(theirs) == [(1, 0), (2, 0)]))
    return [ours, theirs]


def _is_there(url: str) -> bool:
    return bool(sql(url, "SELECT 1 FROM information_schema.tables WHERE table_name = 'things'"))


def is_pausing(url: str) -> bool:
    """Whether some session of that node is in a pause."""
    return any("User sleep" in row for row in sql(url, "SHOW PROCESSLIST"))


def things(url: str) -> list[tuple[Any, ...]]:
    """The rows of the table, in one moment."""
    return sql(url, "SELECT id, value FROM things ORDER BY id")


@pytest.mark.parametrize("when", PACKETS)
async def test_a_transaction_that_another_node_ends_leaves_nothing(
    torn_urls: list[str], open_session: OpenSession, when: str
) -> None:
    """Sent one after the other, the statements behind the pause would commit by themselves, or COMMIT would say OK."""
    ours, theirs = torn_urls
    first, then = PACKETS[when]
    session = open_session(ours)

    async def transaction() -> None:
        if not first:
            await atomic_packet.transact(session, then, VALUES)
            return
        await session.execute(f"{atomic_packet.BEGIN};{first}", {})
        await atomic_packet.finish(session, then, VALUES)

    trying = asyncio.ensure_future(transaction())
    await until(lambda: asyncio.to_thread(lambda: is_pausing(ours)))
    await asyncio.to_thread(sql, theirs, "UPDATE things SET value = 9 WHERE id = 1")
    [error] = await asyncio.gather(trying, return_exceptions=True)
    assert isinstance(error, Exception), "a transaction that was ended was told OK"
    assert error_number(error) in CONFLICTS
    await session.rollback()
    await until(lambda: asyncio.to_thread(lambda: things(ours) == things(theirs) == [(1, 9), (2, 0)]))


async def test_an_ended_transaction_is_noticed_by_the_next_packet(
    torn_urls: list[str], open_session: OpenSession
) -> None:
    ours, theirs = torn_urls
    session = open_session(ours)
    await session.execute(f"{atomic_packet.BEGIN};{ROW}", {})
    await asyncio.to_thread(sql, theirs, "UPDATE things SET value = 9 WHERE id = 1")
    await until(lambda: asyncio.to_thread(lambda: things(ours)[0] == (1, 9)))
    with pytest.raises(pymysql.err.OperationalError) as raised:
        await atomic_packet.finish(session, [OTHER_ROW, NEW_ROW], VALUES)
    assert error_number(raised.value) in CONFLICTS
    await session.rollback()
    assert things(ours) == [(1, 9), (2, 0)]


async def test_holds_of_several_nodes_are_what_was_told(urls: list[str], open_database: OpenDatabase) -> None:
    """Two servers per node on the same three levels; what each answered is what every node has in the end."""
    stores = [StockStore(open_database(url)) for url in urls for _ in range(STORES_PER_NODE)]
    told, held, end = Told(), list[str](), time.monotonic() + CLUSTER_SECONDS

    async def serve(number: int, store: StockStore) -> None:
        chance = Random(number)
        while time.monotonic() < end:
            commands: Sequence[Command] = [_some_command(chance, held) for _ in range(chance.randint(1, 6))]
            while commands:
                results = list(zip(commands, await store.process(commands), strict=True))
                for command, ended in results:
                    if not isinstance(ended, SetAside):
                        ids = told.note(ended)
                        held.extend(ids if isinstance(command, Reserve) else ())
                # Those who would have had to wait for a lock for long are asked again, as the batcher does.
                commands = [command for command, ended in results if isinstance(ended, SetAside)]

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


async def test_what_was_written_at_one_node_is_seen_at_another(urls: list[str]) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(url)) for url in urls]
        for number in range(200):
            writer, reader, closer = (servers[(number + place) % len(servers)] for place in range(3))
            held = (await answered(partial(ask, writer, reserve((1, 1, 1))))).reservation
            assert await answered(partial(reader.state, held.reservation_id)) == held.state
            assert (await answered(reader.level))[1] == 1
            await answered(partial(closer.holds.Cancel, cancel(reservation_id=held.reservation_id)))
            assert (await answered(reader.level))[1] == 0


async def test_a_request_sent_to_all_nodes_at_once_has_one_effect(urls: list[str]) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(url)) for url in urls]
        for _ in range(30):
            request = reserve((1, 1, 1), (2, 1, 1))
            answers = await asyncio.gather(*(answered(partial(ask, server, request)) for server in servers))
            assert len({answer.reservation.reservation_id for answer in answers}) == 1
        assert await servers[0].level() == (UNITS, 30)
    for url in urls:
        await assert_clean(url)
