"""Who writes a stock level or a reservation has it locked before it is read: others wait, and nobody collides.

A collision in the ledger would be found, and the loser would start over; these tests see to it that this second line
of defence is not what keeps the stock right.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pymysql
import pytest
import pytest_asyncio

from service_kit.database.database import Database, DatabaseSettings
from tests.kits.warehouse_kit import (
    Calls,
    assert_clean,
    connection,
    make_overdue,
    scalar,
    serving,
    sql,
    until_someone_waits_for_a_lock,
)
from warehouse.stock.commands import (
    Answer,
    Cancel,
    ChangeStock,
    Command,
    Commit,
    Expire,
    Extend,
    Line,
    Reserve,
)
from warehouse.stock.records import MovementType, State
from warehouse.stock.refusals import Reason, Refusal
from warehouse.writing.store import CommandFailed, Result, StockStore

pytestmark = pytest.mark.sql
TTL = 60_000_000
PATIENT = DatabaseSettings(lock_patience_seconds=30, lock_wait_timeout_seconds=30)
"""Nothing is set aside while a test looks whether somebody waits."""


@dataclass(frozen=True)
class Shop:
    """Ten of product 1, and two servers' stores that sell them."""

    url: str
    calls: Calls
    databases: tuple[Database, Database]
    one: StockStore
    other: StockStore

    def begin(self, store: StockStore, command: Command) -> "asyncio.Task[list[Result]]":
        """Let `store` carry out a command, in the background."""
        return asyncio.ensure_future(store.process([command]))

    @property
    def retries(self) -> dict[tuple[str, ...], float]:
        """Transactions that had to start over, by cause."""
        return {cause: count for database in self.databases for cause, count in database._retries.values.items()}


@pytest_asyncio.fixture
async def shop(warehouse_database_url: str) -> AsyncIterator[Shop]:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 10})
        databases = (Database(warehouse_database_url, PATIENT), Database(warehouse_database_url, PATIENT))
        one, other = map(StockStore, databases)
        yield Shop(warehouse_database_url, calls, databases, one, other)
        await asyncio.gather(one.close(), other.close())
        await asyncio.gather(*(database.close() for database in databases))
    await assert_clean(warehouse_database_url)


@contextlib.contextmanager
def rival_of(shop: Shop) -> Iterator[tuple["pymysql.Connection[Any]", pymysql.cursors.Cursor]]:
    """A transaction of somebody else."""
    with connection(shop.url) as rival, rival.cursor() as cursor:
        rival.begin()
        yield rival, cursor


def pause_before_writing(store: StockStore, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Let `store` stop when it has decided: an event that says so, and one that lets it go on."""
    decided, go_on = asyncio.Event(), asyncio.Event()
    write = store._write

    async def paused(decision: Any) -> None:
        decided.set()
        await go_on.wait()
        await write(decision)

    monkeypatch.setattr(store, "_write", paused)
    return decided, go_on


def reservation_of(results: Sequence[Result]) -> Any:
    """The one reservation of the one answer."""
    [answer] = results
    assert isinstance(answer, Answer), answer
    [reservation] = answer.reservations
    return reservation


async def test_a_reserve_waits_for_whoever_has_the_level_and_sees_what_they_did(shop: Shop) -> None:
    """The rival leaves no trace in the ledger that the Reserve could collide with."""
    with rival_of(shop) as (rival, cursor):
        cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
        pending = shop.begin(shop.one, Reserve("R", "17", (Line(1, 1, 5),), TTL))
        await until_someone_waits_for_a_lock(shop.url)
        cursor.execute("UPDATE stock_levels SET on_hand = 4")
        rival.commit()
    [refusal] = await pending
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INSUFFICIENT_STOCK
    assert shop.retries == {}
    sql(shop.url, "UPDATE stock_levels SET on_hand = 10")


async def test_of_two_stores_with_the_same_level_the_second_waits(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    decided, go_on = pause_before_writing(shop.one, monkeypatch)
    first = shop.begin(shop.one, Reserve("R1", "17", (Line(1, 1, 6),), TTL))
    await decided.wait()
    second = shop.begin(shop.other, Reserve("R2", "18", (Line(1, 1, 6),), TTL, allow_partial=True))
    await until_someone_waits_for_a_lock(shop.url)
    assert not second.done()
    go_on.set()
    assert [reservation_of(await pending).lines[0].quantity for pending in (first, second)] == [6, 4]
    assert shop.retries == {}
    assert await shop.calls.level() == (10, 10)


async def test_two_stores_that_open_the_same_level_collide_and_one_starts_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is not there yet can't be locked: here the collision is what keeps the stock right."""
    sql(shop.url, "INSERT INTO warehouses VALUES (2, 'NEW', 'new', 0, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))")
    decided, go_on = pause_before_writing(shop.one, monkeypatch)
    first = shop.begin(shop.one, ChangeStock("A1", 1, 2, MovementType.STOCK_IN, 3))
    await decided.wait()
    second = shop.begin(shop.other, ChangeStock("A2", 1, 2, MovementType.STOCK_IN, 4))
    assert isinstance((await second)[0], Answer)
    go_on.set()
    assert isinstance((await first)[0], Answer)
    assert shop.retries == {("race",): 1}
    assert await shop.calls.level(1, 2) == (7, 0)


@pytest.mark.parametrize(
    "command",
    [Commit("C", order_id="17"), Commit("C", reservation_id="held"), Extend("E", "held", TTL)],
    ids=["commit the order", "commit the hold", "extend"],
)
async def test_who_closes_or_extends_a_hold_waits_for_whoever_has_it(shop: Shop, command: Commit | Extend) -> None:
    """The rival has the reservation, not its stock level, as one who mends rows by hand might."""
    held = await shop.calls.hold((1, 1, 5), order_id="17")
    if command.reservation_id:
        command = type(command)(**{**_fields(command), "reservation_id": held.reservation_id})
    with rival_of(shop) as (rival, cursor):
        cursor.execute(
            "UPDATE reservations SET created_at = created_at - INTERVAL 1 DAY,"
            " expires_at = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND"
        )
        pending = shop.begin(shop.one, command)
        await until_someone_waits_for_a_lock(shop.url)
        rival.commit()
    [refusal] = await pending
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.RESERVATION_EXPIRED
    assert shop.retries == {}
    assert await shop.calls.level() == (10, 0)


def _fields(command: Commit | Extend) -> dict[str, Any]:
    return {name: getattr(command, name) for name in command.__struct_fields__}


@pytest.mark.parametrize("ends_it", [Commit("C", order_id="17"), Cancel("C", order_id="17")], ids=["commit", "cancel"])
@pytest.mark.parametrize("sweeper_first", [True, False], ids=["after the sweeper", "before the sweeper"])
async def test_commit_and_cancel_racing_the_sweeper_wait_for_it_or_it_for_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ends_it: Command, sweeper_first: bool
) -> None:
    held = await shop.calls.hold((1, 1, 5), order_id="17")
    await make_overdue(shop.url, held.reservation_id)
    commands = [Expire(held.reservation_id), ends_it]
    decided, go_on = pause_before_writing(shop.one, monkeypatch)
    first = shop.begin(shop.one, commands[0] if sweeper_first else commands[1])
    await decided.wait()
    second = shop.begin(shop.other, commands[1] if sweeper_first else commands[0])
    await until_someone_waits_for_a_lock(shop.url)
    go_on.set()
    outcomes = [(await pending)[0] for pending in (first, second)]
    assert not any(isinstance(item, Exception) for item in outcomes)
    assert shop.retries == {}
    assert scalar(shop.url, "SELECT state FROM reservations") == State.EXPIRED
    assert scalar(shop.url, "SELECT COUNT(*) FROM movements WHERE type = 'EXPIRED'") == 1
    assert await shop.calls.level() == (10, 0)


async def test_an_id_that_begins_like_that_of_a_hold_is_not_that_hold(shop: Shop) -> None:
    """Cut to the length of an id, it would find the hold a second time, and its lines twice."""
    held = (await shop.calls.hold((1, 1, 5), order_id="17")).reservation_id
    await shop.calls.hold((1, 1, 5), order_id="18")
    others = (f"{held}-and-more", f"{held} and more", f"{held[:-1]}é")
    extends = [Extend(f"E{number}", other, TTL) for number, other in enumerate(others)]
    cancelled, *refusals = await shop.one.process([Cancel("C", held), *extends])
    assert isinstance(cancelled, Answer)
    assert [isinstance(one, Refusal) and one.reason for one in refusals] == [Reason.RESERVATION_NOT_FOUND] * 3
    assert await shop.calls.level() == (10, 5)
    assert [[line.quantity for line in one.lines] for one in cancelled.reservations] == [[5]]


@pytest.mark.parametrize("field", ["order_id", "correlation_id"])
@pytest.mark.parametrize("count", [1, 5], ids=["with a parameter per value", "as documents"])
async def test_what_is_too_long_for_its_column_is_refused_and_never_cut(shop: Shop, field: str, count: int) -> None:
    """No caller gets that far with it; the rest of the batch goes on."""
    commands = [Reserve(f"R{number}", f"O{number}", (Line(1, 1, 1),), TTL) for number in range(count)]
    commands[0] = msgspec.structs.replace(commands[0], **{field: "x" * 65})
    outcomes = await shop.one.process(commands)
    assert [isinstance(one, CommandFailed) for one in outcomes] == [True] + [False] * (count - 1)
    assert await shop.calls.level() == (10, count - 1)
