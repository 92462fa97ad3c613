"""Rows that another session keeps locked: only those who need them wait, and they hear why in time.

The lock is held by a plain connection, as a console with an open transaction would. What is looked at is who goes on
and who is set aside, never how long something took.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest
import pytest_asyncio

from service_kit.batcher import Batcher, BatcherSettings, SetAside
from service_kit.database.database import Database, DatabaseSettings
from service_kit.stuck_rows import RowsLocked
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.warehouse_kit import (
    Calls,
    No,
    assert_clean,
    commit,
    connection,
    fresh,
    make_overdue,
    no_of_status,
    outcome,
    refused,
    reserve,
    scalar,
    serving,
)
from warehouse.stock.commands import (
    Answer,
    Cancel,
    ChangeStock,
    Command,
    Commit,
    CountStock,
    Expire,
    Extend,
    Line,
    Reserve,
)
from warehouse.stock.records import MovementType
from warehouse.stock.refusals import Reason, Refusal
from warehouse.writing.expiry import Sweeper
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.sql
TTL = 60_000_000
IMPATIENT = DatabaseSettings(lock_patience_seconds=0.05, locked_look_seconds=0.02)


@dataclass(frozen=True)
class Shop:
    """A hundred of each of three products, and a store with its batcher beside the server."""

    url: str
    calls: Calls
    store: StockStore
    batcher: "Batcher[Command, Answer | Refusal]"
    batches: list[list[Command]]

    async def lock(self, rival: "pymysql.Connection[Any]", what: str) -> None:
        """Let `rival` lock rows."""

        def work() -> None:
            rival.begin()
            rival.cursor().execute(f"SELECT * FROM {what} FOR UPDATE")

        await asyncio.to_thread(work)


@pytest_asyncio.fixture
async def shop(warehouse_database_url: str) -> AsyncIterator[Shop]:
    async with serving(warehouse_database_url, database=IMPATIENT.model_dump()) as calls:
        await calls.keep({(1, 1): 100, (2, 1): 100, (3, 1): 100})
        database = Database(warehouse_database_url, IMPATIENT)
        store, batches = StockStore(database), list[list[Command]]()

        async def process(commands: Sequence[Command]) -> Any:
            batches.append(list(commands))
            return await store.process(commands)

        batcher: Batcher[Command, Answer | Refusal] = Batcher(process, BatcherSettings(gather_seconds=0))
        batcher.start()
        yield Shop(warehouse_database_url, calls, store, batcher, batches)
        await batcher.close()
        await store.close()
        await database.close()
    await assert_clean(warehouse_database_url)


@pytest.fixture
def rival(shop: Shop) -> Iterator["pymysql.Connection[Any]"]:
    with connection(shop.url) as made:
        yield made


def of(product_id: int, request_id: str = "", order_id: str = "", quantity: int = 1) -> Reserve:
    return Reserve(request_id or fresh("r"), order_id or fresh("o"), (Line(product_id, 1, quantity),), TTL)


async def test_the_free_levels_of_a_batch_go_on_and_the_next_batch_waits_for_nothing(
    shop: Shop, rival: "pymysql.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    both = Reserve("both", "both", (Line(1, 1, 1), Line(2, 1, 1)), TTL)
    results = await shop.store.process([of(2), of(1), both, of(3)])
    assert [type(one) for one in results] == [Answer, SetAside, SetAside, Answer]
    assert shop.store.locked_rows == 1
    # From now on nothing that may wait is said about that level.
    said = []
    execute = shop.store._session.execute

    async def listening(text: str, values: dict[str, Any]) -> Any:
        said.append((text, values))
        return await execute(text, values)

    monkeypatch.setattr(shop.store._session, "execute", listening)
    results = await shop.store.process([of(1), of(2)])
    assert [type(one) for one in results] == [SetAside, Answer]
    assert not any("[1,1]" in str(values.get("levels")) for _, values in said)
    rival.rollback()


async def test_who_needs_what_is_stuck_goes_on_as_soon_as_it_is_free_in_the_order_they_came(
    shop: Shop, rival: "pymysql.Connection[Any]"
) -> None:
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    stuck = [shop.batcher.submit(of(1, quantity=60)), shop.batcher.submit(of(1, quantity=40))]
    assert isinstance(await shop.batcher.submit(of(2)), Answer)
    stuck.append(shop.batcher.submit(of(1, quantity=1)))
    assert isinstance(await shop.batcher.submit(of(3)), Answer)
    assert not any(future.done() for future in stuck)
    rival.rollback()
    first, second, third = await asyncio.gather(*stuck)
    assert (type(first), type(second)) == (Answer, Answer)
    assert isinstance(third, Refusal)
    assert third.reason is Reason.INSUFFICIENT_STOCK
    assert shop.store.locked_rows == 0


async def test_callers_are_told_to_ask_again_and_only_those(shop: Shop, rival: "pymysql.Connection[Any]") -> None:
    held = await shop.calls.hold((1, 1, 1))
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    for call in (
        shop.calls.holds.Reserve(reserve((1, 1, 1)), timeout=2),
        shop.calls.holds.Commit(commit(reservation_id=held.reservation_id), timeout=2),
    ):
        no = await refused(call)
        assert (no.code, no.reason) == ("ABORTED", "LOCK_RETRIES_SPENT")
        assert no.retry_seconds
        assert "another session" in no.message
    await shop.calls.hold((2, 1, 1))
    rival.rollback()


async def test_one_stuck_request_of_a_batch_reserve_does_not_keep_the_others(
    shop: Shop, rival: "pymysql.Connection[Any]"
) -> None:
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    requests = [reserve((product, 1, 1)) for product in (2, 1, 3)]
    patient = asyncio.ensure_future(refused(shop.calls.holds.Reserve(reserve((1, 1, 1)), timeout=4)))
    results = (await shop.calls.holds.BatchReserve(pb.BatchReserveRequest(requests=requests))).results
    assert [one.HasField("reservation") for one in results] == [True, False, True]
    assert not patient.done()
    no = no_of_status(results[1].error, "")
    assert (no.reason, bool(no.retry_seconds)) == ("LOCK_RETRIES_SPENT", True)
    rival.rollback()
    patient.cancel()
    again = (await shop.calls.holds.BatchReserve(pb.BatchReserveRequest(requests=requests))).results
    assert [one.reservation.reservation_id for one in again if one is not again[1]] == [
        one.reservation.reservation_id for one in results if one is not results[1]
    ]


@pytest.mark.parametrize("kind", ["commit", "commit the order", "cancel", "cancel the request", "extend", "expire"])
async def test_a_stuck_reservation_holds_up_what_is_about_it_and_nothing_else(
    shop: Shop, rival: "pymysql.Connection[Any]", kind: str
) -> None:
    stuck = await shop.calls.hold((1, 1, 1), order_id="stuck", request_id="R")
    free = await shop.calls.hold((1, 1, 1), order_id="free")
    await shop.lock(rival, f"reservations WHERE reservation_id = '{stuck.reservation_id}'")
    about: dict[str, Command] = {
        "commit": Commit("x", stuck.reservation_id),
        "commit the order": Commit("x", order_id="stuck"),
        "cancel": Cancel("x", stuck.reservation_id),
        "cancel the request": Cancel("x", reserve_request_id="R"),
        "extend": Extend("x", stuck.reservation_id, TTL),
        "expire": Expire(stuck.reservation_id),
    }
    results = await shop.store.process([about[kind], Commit("y", free.reservation_id), of(1)])
    assert [type(one) for one in results] == [SetAside, Answer, Answer]
    pending = shop.batcher.submit(about[kind])
    assert isinstance(await shop.batcher.submit(of(1)), Answer)
    rival.rollback()
    assert isinstance(await pending, Answer)


@pytest.mark.parametrize("table", ["products WHERE product_id = 3", "warehouses WHERE warehouse_id = 2"])
async def test_a_locked_product_or_warehouse_holds_up_only_who_opens_a_level_of_it(
    shop: Shop, rival: "pymysql.Connection[Any]", table: str
) -> None:
    await shop.calls.keep({(4, 2): 1})
    await shop.lock(rival, table)
    opening: list[Command] = [ChangeStock("c", 3, 2, MovementType.STOCK_IN, 1), CountStock("n", 3, 2, 5)]
    results = await shop.store.process([*opening, of(3), ChangeStock("d", 4, 2, MovementType.STOCK_IN, 1), of(9)])
    assert [type(one) for one in results] == [SetAside, SetAside, Answer, Answer, Refusal]
    pending = shop.batcher.submit(opening[0])
    assert isinstance(await shop.batcher.submit(of(2)), Answer)
    rival.rollback()
    assert isinstance(await pending, Answer)


async def test_a_replay_is_answered_though_its_level_is_stuck_and_never_as_something_new(
    shop: Shop, rival: "pymysql.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await shop.store.process([of(1, "R", "o")])
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    waiting, clock = of(1, "S", "p"), asyncio.get_running_loop().time()
    monkeypatch.setattr(shop.store._locking.stuck, "_clock", lambda: clock)
    # What is called the same as something set aside keeps its place behind it.
    results = await shop.store.process([of(1, "R", "o"), waiting, Cancel("x", order_id="p"), of(2, "S", "q"), of(2)])
    assert results[0] == made[0]
    assert [type(one) for one in results[1:]] == [SetAside, SetAside, SetAside, Answer]
    later = await shop.store.process([Cancel("y", reserve_request_id="S"), Commit("c", order_id="p")])
    assert [type(one) for one in later] == [SetAside, SetAside]
    monkeypatch.setattr(shop.store._locking.stuck, "_clock", None)
    rival.rollback()
    commands: list[Command] = [waiting, Cancel("x", order_id="p"), of(2, "S", "q")]
    held, cancelled, reused = await asyncio.gather(*map(shop.batcher.submit, commands))
    assert isinstance(held, Answer)
    assert isinstance(cancelled, Answer)
    assert cancelled.reservations[0].reservation_id == held.reservations[0].reservation_id
    assert isinstance(reused, Refusal)
    assert reused.reason is Reason.REQUEST_ID_REUSED


async def test_a_level_in_demand_is_waited_for_in_line(shop: Shop, rival: "pymysql.Connection[Any]") -> None:
    """It changes hands between two looks: other servers sell it, one after the other."""
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    assert isinstance((await shop.store.process([of(1)]))[0], SetAside)
    rival.cursor().execute("UPDATE stock_levels SET version = version + 1 WHERE product_id = 1")
    rival.commit()
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    await asyncio.sleep(IMPATIENT.locked_look_seconds)
    assert isinstance((await shop.store.process([of(1)]))[0], SetAside)
    assert shop.store.locked_rows == 0
    assert shop.store._locking.stuck.are_in_demand([(1, 1)])
    rival.rollback()
    assert isinstance((await shop.store.process([of(2), of(3)]))[0], Answer)
    rival.cursor().execute("UPDATE stock_levels SET version = version - 1 WHERE product_id = 1")


async def test_the_sweeper_ends_the_free_holds(shop: Shop, rival: "pymysql.Connection[Any]") -> None:
    stuck = await shop.calls.hold((1, 1, 1))
    free = [(await shop.calls.hold((2, 1, 1))).reservation_id for _ in range(3)]
    await make_overdue(shop.url, stuck.reservation_id, *free)
    await shop.lock(rival, "stock_levels WHERE product_id = 1")
    database = Database(shop.url, IMPATIENT)
    sweeper = Sweeper(database, shop.batcher, 2, 3600)
    later = asyncio.get_running_loop().time() + 30
    assert await sweeper.sweep(later) == 3
    rival.rollback()
    await asyncio.sleep(IMPATIENT.locked_look_seconds)
    assert await sweeper.sweep(later) == 1
    await database.close()


async def test_a_full_batcher_ends_no_sweep_and_hides_no_hold(shop: Shop) -> None:
    held = [(await shop.calls.hold((2, 1, 1))).reservation_id for _ in range(7)]
    await make_overdue(shop.url, *held)
    database, go = Database(shop.url, IMPATIENT), asyncio.Event()
    go.set()

    async def process(commands: Sequence[Command]) -> Any:
        await go.wait()
        return await shop.store.process(commands)

    narrow: Batcher[Command, Answer | Refusal] = Batcher(process, BatcherSettings(queue_size_max=2, gather_seconds=0))
    narrow.start()
    go.clear()
    blocking = [narrow.submit(of(3))]
    await asyncio.sleep(0)
    while len(blocking) < 3:
        blocking.append(narrow.submit(of(3)))
        await asyncio.sleep(0)
    sweeper = Sweeper(database, narrow, 5, 3600)
    sweep = asyncio.create_task(sweeper.sweep(asyncio.get_running_loop().time() + 30))
    while not sweeper.lag_seconds:  # noqa: ASYNC110 - until the first page is read
        await asyncio.sleep(0.001)
    go.set()
    assert await sweep == 7
    await asyncio.gather(*blocking)
    await narrow.close()
    await database.close()


async def test_what_can_not_be_written_because_of_a_lock_is_found_and_the_others_go_on(
    shop: Shop, rival: "pymysql.Connection[Any]"
) -> None:
    """Somebody has written the same request id and not committed: nothing of it can be seen, or looked for."""
    rival.begin()
    rival.cursor().execute(
        "INSERT INTO request_ids (request_id, fingerprint, answer, created_at)"
        " VALUES ('R', UNHEX(REPEAT('0', 32)), '[]', UTC_TIMESTAMP(6))"
    )
    results = await asyncio.gather(
        *(shop.batcher.submit(one) for one in (of(2), of(1, "R"), of(3))), return_exceptions=True
    )
    assert [type(one) for one in results] == [Answer, RowsLocked, Answer]
    batches = len(shop.batches)
    again = await asyncio.gather(shop.batcher.submit(of(1, "R")), shop.batcher.submit(of(2)), return_exceptions=True)
    assert [type(one) for one in again] == [RowsLocked, Answer]
    assert len(shop.batches) == batches + 1
    rival.rollback()


async def test_more_than_one_stuck_level_and_a_client_that_gave_up(
    shop: Shop, rival: "pymysql.Connection[Any]"
) -> None:
    await shop.lock(rival, "stock_levels WHERE product_id < 3")
    pending = [shop.batcher.submit(of(product)) for product in (1, 2, 3)]
    assert isinstance(await pending[2], Answer)
    pending[0].cancel()
    rival.rollback()
    assert isinstance(await pending[1], Answer)
    with contextlib.suppress(asyncio.CancelledError):
        await pending[0]
    assert scalar(shop.url, "SELECT reserved FROM stock_levels WHERE product_id = 1") == 0
    assert not isinstance(await outcome(shop.calls.holds.Reserve(reserve((1, 1, 1)))), No)
