"""Orders and keys that another session keeps locked: only those who need them wait. And time never steps back."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from order_gateway.lifecycle import Event, NewItem, NewOrder, Order, Status
from order_gateway.storage.applying import Applied, Change
from order_gateway.storage.changing import Work
from order_gateway.storage.creating import ClaimLost, Creation
from order_gateway.storage.idempotency import Begun, IdempotencyStore, InProgress
from service_kit.batcher import SetAside
from service_kit.database.database import Database, DatabaseSettings
from service_kit.stuck_rows import RowsLocked
from tests.kits.scripted_orders import World
from tests.kits.warehouse_kit import connection, sql

pytestmark = pytest.mark.sql
IMPATIENT = DatabaseSettings(lock_patience_seconds=0.05, locked_look_seconds=0.02, pool_size=6)
NEW = NewOrder("u", "Street 1", "card", (NewItem(1, 1, 1, Decimal("1.00")),), "c-1", "test")
CANCEL = Change(Event.CANCEL, "test")


@pytest.fixture
async def world(orders_database_url: str) -> AsyncIterator[World]:
    made = World(orders_database_url, settings=IMPATIENT)
    yield made
    await made.close()


@pytest.fixture
def rival(orders_database_url: str) -> Iterator["pymysql.Connection[Any]"]:
    with connection(orders_database_url) as made:
        yield made


async def lock(rival: "pymysql.Connection[Any]", statement: str) -> None:
    def work() -> None:
        rival.begin()
        rival.cursor().execute(statement)

    await asyncio.to_thread(work)


def kinds(results: Sequence[object]) -> list[type]:
    return [type(one) for one in results]


async def orders(world: World, count: int) -> list[Order]:
    return [await world.create_order() for _ in range(count)]


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "to be read"])
async def test_a_stuck_order_holds_up_its_own_changes_only(
    world: World, rival: "pymysql.Connection[Any]", is_known: bool
) -> None:
    stuck, free, other = await orders(world, 3)
    await lock(rival, f"SELECT * FROM orders WHERE id = {stuck.id} FOR UPDATE")
    changes = [Work(order.id, CANCEL, "", order if is_known else None) for order in (free, stuck, stuck)]
    results = await world.store._changing.process(changes)
    assert kinds(results) == [Applied, SetAside, SetAside]
    pending = asyncio.ensure_future(world.store.apply(stuck.id, CANCEL))
    done = await world.store.apply(other.id, CANCEL)
    assert done.order.state.status is Status.CANCELLED
    assert not pending.done()
    rival.rollback()
    assert (await pending).order.state.status is Status.CANCELLED


async def test_rows_of_an_order_that_can_not_be_written_hold_up_no_other(
    world: World, rival: "pymysql.Connection[Any]"
) -> None:
    """Its next line of history is there, and not committed: nothing that could be looked for."""
    stuck, free = await orders(world, 2)
    await lock(
        rival,
        "INSERT INTO history (order_id, version, event, status_after, actor, correlation_id, created_at)"
        f" VALUES ({stuck.id}, {stuck.version + 1}, 'cancel', 'cancelled', 'x', 'x', NOW(6))",
    )
    results = await asyncio.gather(
        world.store.apply(stuck.id, CANCEL), world.store.apply(free.id, CANCEL), return_exceptions=True
    )
    assert kinds(results) == [RowsLocked, Applied]
    again = await asyncio.gather(
        world.store.apply(stuck.id, CANCEL), world.store.apply(free.id, CANCEL), return_exceptions=True
    )
    assert kinds(again) == [RowsLocked, Applied]
    rival.rollback()


async def test_a_stuck_key_holds_up_its_own_order_only(world: World, rival: "pymysql.Connection[Any]") -> None:
    answers = IdempotencyStore(world.database, 60)
    claims = {}
    for key in ("stuck", "free", "lost"):
        begun = await answers.begin("shop", key, "0" * 64)
        assert isinstance(begun, Begun)
        claims[key] = begun.claim
    claims["lost"] = "somebody else's"
    await lock(rival, "SELECT * FROM idempotency_keys WHERE idempotency_key = 'stuck' FOR UPDATE")

    def creation(key: str) -> Creation:
        return Creation(NEW, f"token-{key}", f"request-{key}", 5, ("shop", key, claims[key]), "")

    results = await world.store._creating.process([creation("free"), creation("stuck"), creation("lost")])
    assert kinds(results) == [Order, SetAside, ClaimLost]
    pending = asyncio.ensure_future(world.store.create(NEW, 5, ("shop", "stuck", claims["stuck"])))
    assert isinstance(await world.store.create(NEW, 5), Order)
    assert not pending.done()
    rival.rollback()
    assert isinstance(await pending, Order)
    assert sql(world.url, "SELECT COUNT(*), COUNT(order_id) FROM idempotency_keys") == [(3, 2)]


async def test_requests_with_a_stuck_key_do_not_keep_the_connections_of_the_pool(
    world: World, rival: "pymysql.Connection[Any]"
) -> None:
    """More of them than there are connections."""
    answers = IdempotencyStore(world.database, 60)
    begun = await answers.begin("shop", "stuck", "0" * 64)
    await lock(rival, "SELECT * FROM idempotency_keys WHERE idempotency_key = 'stuck' FOR UPDATE")
    stuck = [answers.begin("shop", "stuck", "0" * 64) for _ in range(IMPATIENT.pool_size * 2)]
    assert kinds(await asyncio.gather(*stuck)) == [InProgress] * len(stuck)
    assert isinstance(await answers.begin("shop", "free", "0" * 64), Begun)
    rival.rollback()
    assert isinstance(begun, Begun)


async def test_a_pool_with_nothing_left_delays_and_then_goes_on(orders_database_url: str) -> None:
    """More transactions at once than connections: each gets its turn, none fails."""
    database = Database(orders_database_url, DatabaseSettings(pool_size=2))
    under_way, most, all_taken = 0, 0, asyncio.Event()

    async def work(connection: Any) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            all_taken.set()
        await all_taken.wait()
        value = (await connection.exec_driver_sql("SELECT 1")).scalar_one()
        under_way -= 1
        return int(value)

    assert await asyncio.gather(*(database.run_in_transaction(work) for _ in range(20))) == [1] * 20
    assert most == 2
    await database.close()


async def test_what_happens_to_an_order_is_never_written_before_what_it_follows(world: World) -> None:
    """The clock steps back by a day after the order was placed: deadlines go by it, the history does not."""
    [order] = await orders(world, 1)
    day = "INTERVAL 1 DAY"
    await world.execute(f"UPDATE orders SET updated_at = updated_at + {day}")
    await world.execute(f"UPDATE history SET created_at = created_at + {day}")
    paid = (await world.saga.pay(order.id, "test")).order
    assert paid.state.status is Status.PAID
    instants = [row[0] for row in sql(world.url, "SELECT created_at FROM history ORDER BY version")]
    assert instants == sorted(set(instants))
    assert sql(world.url, "SELECT updated_at FROM orders") == [(instants[-1],)]
    assert sql(world.url, "SELECT COUNT(*) FROM intents WHERE due_at > NOW(6) + INTERVAL 1 HOUR") == [(0,)]
