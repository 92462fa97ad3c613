"""Locks, lost answers and lost databases: at most one effect, the caller hears of it, and nothing hangs."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pymysql
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from development.local_server import LocalServer
from service_kit.batcher import BatcherSettings
from service_kit.database import migrating
from service_kit.database.database import Database, DatabaseSettings, DriverSession, error_number
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.database_proxy import proxied
from tests.kits.warehouse_kit import (
    COMMITTED,
    EXPIRED,
    Calls,
    No,
    assert_clean,
    cancel,
    commit,
    connection,
    extend,
    fresh,
    make_overdue,
    outcome,
    refused,
    reserve,
    scalar,
    serving,
    sql,
    until_someone_waits_for_a_lock,
)
from warehouse.server import SERVICES
from warehouse.stock.commands import Answer, ChangeStock, CorruptedLedger
from warehouse.stock.records import MovementType
from warehouse.writing.store import StockStore

pytestmark = pytest.mark.sql
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
QUICK = DatabaseSettings(
    connect_timeout_seconds=1,
    lock_wait_timeout_seconds=1,
    tries=2,
    retry_for_seconds=1,
    transaction_timeout_seconds=2,
)
Errors = list[int | None]


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> Errors:
    """The numbers of the errors after which a transaction was tried again."""
    numbers: Errors = []

    note = Database._note_retry

    def noted(self: Database, attempt: int, error: BaseException | None) -> None:
        note(self, attempt, error)
        numbers.append(error_number(error) if error else None)

    monkeypatch.setattr(Database, "_note_retry", noted)
    return numbers


@pytest_asyncio.fixture
async def calls(warehouse_database_url: str) -> AsyncIterator[Calls]:
    async with serving(warehouse_database_url) as made:
        await made.keep({(1, 1): 100})
        yield made
        await assert_clean(warehouse_database_url)


async def every_kind_of_change(calls: Calls) -> None:
    """One of each, with what it must have done."""
    held = await calls.hold((1, 1, 5))
    await calls.holds.Extend(extend(held.reservation_id, 5000))
    [sold] = (await calls.holds.Commit(commit(reservation_id=held.reservation_id))).reservations
    assert sold.state == COMMITTED
    second = await calls.hold((1, 1, 7))
    await calls.holds.Cancel(cancel(order_id=second.order_id))
    await calls.holds.Cancel(cancel(order_id=fresh("unseen")))
    level = (await calls.stock.AddStock(_more())).stock_level
    assert (level.on_hand, level.reserved) == (105, 0)
    await calls.stock.CreateProduct(
        stock.CreateProductRequest(request_id=fresh("product"), sku=fresh("sku"), name="New")
    )


def _more() -> stock.AddStockRequest:
    return stock.AddStockRequest(request_id=fresh("more"), product_id=1, warehouse_id=1, quantity=10)


@pytest.mark.parametrize("phase", range(5))
@pytest.mark.parametrize("after_the_statement", [False, True])
async def test_lock_errors_at_every_statement_go_unnoticed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, retried: Errors, phase: int, after_the_statement: bool
) -> None:
    """Every fifth command meets the error, before or after its work; the phases make it any one of a transaction."""
    execute, turn, number = DriverSession.execute, phase, (1205, 1213)[phase % 2]
    injected = 0

    async def unlucky(self: DriverSession, text: str, values: dict[str, Any]) -> Any:
        nonlocal turn, injected
        turn += 1
        if turn % 5 == 0 and not after_the_statement:
            injected += 1
            raise pymysql.err.OperationalError(number, "injected")
        rows = await execute(self, text, values)
        if turn % 5 == 0 and not text.endswith(("COMMIT", "COMMIT;END")):
            injected += 1
            raise pymysql.err.OperationalError(number, "injected")
        return rows

    monkeypatch.setattr(DriverSession, "execute", unlucky)
    await every_kind_of_change(calls)
    assert injected
    # After a wait for a lock it is not the same that is tried again, but what can be had without waiting.
    assert (number in retried) == (number == 1213)


async def test_a_true_deadlock_goes_unnoticed(calls: Calls, warehouse_database_url: str, retried: Errors) -> None:
    held = await calls.hold((1, 1, 5))
    with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
        rival.begin()
        # Much written: the other one is chosen as the victim.
        cursor.executemany(
            "INSERT INTO request_ids VALUES (%s, REPEAT('x', 16), '[]', UTC_TIMESTAMP(6))",
            [(f"rival {number}",) for number in range(200)],
        )
        cursor.execute("SELECT 1 FROM reservations WHERE reservation_id = %s FOR UPDATE", (held.reservation_id,))
        selling = asyncio.ensure_future(_coroutine(calls.holds.Commit(commit(reservation_id=held.reservation_id))))
        await until_someone_waits_for_a_lock(warehouse_database_url)
        await asyncio.to_thread(cursor.execute, "SELECT 1 FROM stock_levels FOR UPDATE")
        assert not selling.done()
        rival.rollback()
    [sold] = (await selling).reservations
    assert sold.state == COMMITTED
    assert retried[0] == 1213


async def _coroutine(call: Any) -> Any:
    return await call


async def test_a_lock_wait_that_ends_goes_unnoticed_and_one_that_does_not_is_aborted(
    warehouse_database_url: str, retried: Errors
) -> None:
    impatient = DatabaseSettings(lock_patience_seconds=0.1)
    async with serving(
        warehouse_database_url, database=impatient, batcher=BatcherSettings(aside_seconds_max=0.5)
    ) as calls:
        await calls.keep({(1, 1): 100})
        with connection(warehouse_database_url) as rival, rival.cursor() as cursor:
            rival.begin()
            cursor.execute("SELECT * FROM stock_levels FOR UPDATE")
            request = reserve((1, 1, 3))
            no = await refused(calls.holds.Reserve(request))
            assert (no.code, no.reason) == ("ABORTED", "LOCK_RETRIES_SPENT")
            assert no.retry_seconds
            pending = asyncio.ensure_future(_coroutine(calls.holds.Reserve(request)))
            await asyncio.sleep(0.05)
            rival.rollback()
            await pending
            assert retried == []
        assert await calls.level() == (100, 3)
    await assert_clean(warehouse_database_url)


async def test_a_lost_answer_to_commit_is_found_again(warehouse_database_url: str, retried: Errors) -> None:
    async with proxied(warehouse_database_url) as (proxy, url), serving(url) as calls:
        await calls.keep({(1, 1): 100})
        before = proxy.lost
        for _ in range(6):
            proxy.lose_answers = 1
            held = await calls.hold((1, 1, 1))
            proxy.lose_answers = 1
            await calls.holds.Commit(commit(reservation_id=held.reservation_id))
            proxy.lose_answers = 1
            added = await calls.stock.AddStock(
                stock.AddStockRequest(request_id=fresh("more"), product_id=1, warehouse_id=1, quantity=1)
            )
            assert (added.stock_level.on_hand, added.stock_level.reserved) == (100, 0)
            proxy.lose_answers = 1
            await calls.holds.Cancel(cancel(order_id=fresh("unseen")))
            proxy.lose_answers = 1
            await calls.stock.CreateProduct(
                stock.CreateProductRequest(request_id=fresh("product"), sku=fresh("sku"), name="New")
            )
        assert proxy.lost - before == 30
        assert len(retried) == 30
        await assert_clean(warehouse_database_url)


async def test_lost_answers_under_load_leave_one_effect_each(warehouse_database_url: str) -> None:
    async with proxied(warehouse_database_url) as (proxy, url), serving(url) as calls:
        await calls.keep({(1, 1): 1000})

        async def shop() -> None:
            for _ in range(6):
                held = await calls.hold((1, 1, 1))
                await calls.holds.Commit(commit(reservation_id=held.reservation_id))

        shoppers = asyncio.gather(*(shop() for _ in range(20)))
        while not shoppers.done():
            # Fewer than a transaction has tries, and all of them early: how fast this machine is does not matter.
            if proxy.lost < 5:
                proxy.lose_answers = 1
            await asyncio.wait([shoppers], timeout=0.01)
        await shoppers
        assert proxy.lost >= 3
        assert await calls.level() == (880, 0)
    await assert_clean(warehouse_database_url)


async def test_one_command_with_impossible_data_spoils_no_other(calls: Calls, warehouse_database_url: str) -> None:
    """The database refuses a row of one product: nothing that an API call could bring about."""
    await calls.keep({(2, 2): 10})
    refusal = "ALTER TABLE movements ADD CONSTRAINT no_more_of_2 CHECK (product_id <> 2 OR sequence = 1)"
    sql(warehouse_database_url, refusal)
    try:
        requests = [reserve((2, 2, 1) if number == 7 else (1, 1, 1)) for number in range(16)]
        ends = await asyncio.gather(*(outcome(calls.holds.Reserve(request)) for request in requests))
    finally:
        sql(warehouse_database_url, "ALTER TABLE movements DROP CONSTRAINT no_more_of_2")
    assert [number for number, ended in enumerate(ends) if isinstance(ended, No)] == [7]


TORN = {
    "a row too many": (
        """INSERT INTO movements SELECT product_id, warehouse_id, sequence + 1, type, 0, on_hand_after, on_hand_after,
        0, 0, '', '', '', '', event_id, created_at FROM movements WHERE product_id = 2""",
        "DELETE FROM movements WHERE product_id = 2 AND sequence = 2",
    ),
    "the version set back": (
        "UPDATE stock_levels SET version = 0 WHERE product_id = 2",
        "UPDATE stock_levels SET version = 1 WHERE product_id = 2",
    ),
    "the level deleted": (
        "DELETE FROM stock_levels WHERE product_id = 2",
        "INSERT INTO stock_levels VALUES (2, 2, 10, 0, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
    ),
}


@pytest.mark.parametrize("kind", TORN)
async def test_a_damaged_ledger_fails_its_own_commands_at_once(
    calls: Calls, warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch, retried: Errors, kind: str
) -> None:
    """The ledger has a row where the next one would go. That is no race: no new try can win it."""
    await calls.keep({(2, 2): 10})
    damage, mend = TORN[kind]
    sql(warehouse_database_url, damage)
    database = Database(warehouse_database_url)
    store = StockStore(database)
    tries = []
    lock_and_read = store._locking.lock_and_read

    async def counted(*plan: Any, **options: Any) -> Any:
        tries.append(plan)
        return await lock_and_read(*plan, **options)

    monkeypatch.setattr(store._locking, "lock_and_read", counted)
    sound, damaged = (1, 1), (2, 2)
    commands = [
        ChangeStock(fresh("more"), *(damaged if number in (3, 7) else sound), MovementType.STOCK_IN, 1)
        for number in range(16)
    ]
    outcomes = await store.process(commands)
    failed = {number: type(outcome) for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}
    assert failed == {3: CorruptedLedger, 7: CorruptedLedger}
    assert len(tries) == 2
    assert retried == []
    assert await calls.level() == (114, 0)
    sql(warehouse_database_url, mend)
    [answer] = await store.process([commands[3]])
    assert isinstance(answer, Answer)
    await store.close()
    await database.close()


async def test_a_poisoned_hold_does_not_stop_the_sweep(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url, sweep_size_max=20) as calls:
        await calls.keep({(1, 1): 1000, (2, 1): 10, (3, 1): 10})
        poisoned = [await calls.hold((product, 1, 5)) for product in (2, 3)]
        good = [await calls.hold((1, 1, 1)) for _ in range(100)]
        sql(warehouse_database_url, "UPDATE stock_levels SET reserved = 1 WHERE product_id = 2")
        sql(warehouse_database_url, "DELETE FROM stock_levels WHERE product_id = 3")
        await make_overdue(warehouse_database_url)
        assert (await calls.holds.SweepExpired(pb.SweepExpiredRequest())).expired == 100
        assert await calls.state(good[-1].reservation_id) == EXPIRED
        assert [await calls.state(item.reservation_id) != EXPIRED for item in poisoned] == [True, True]
        assert (await calls.holds.SweepExpired(pb.SweepExpiredRequest())).expired == 0
        ended = await refused(calls.holds.Commit(commit(order_id=poisoned[0].order_id)))
        assert (ended.code, ended.reason) == ("INTERNAL", "INTERNAL")


async def test_many_sweepers_end_each_hold_once(warehouse_database_url: str) -> None:
    async with (
        serving(warehouse_database_url, sweep_seconds=0.02, sweep_size_max=7) as one,
        serving(warehouse_database_url, sweep_seconds=0.02, sweep_size_max=7) as two,
        serving(warehouse_database_url, sweep_size_max=50) as three,
    ):
        await one.keep({(1, 1): 300})
        await asyncio.gather(*((one, two)[number % 2].hold((1, 1, 1)) for number in range(300)))
        await make_overdue(warehouse_database_url)
        deadline = time.monotonic() + 20
        while await one.level() != (300, 0):
            await asyncio.gather(*(server.holds.SweepExpired(pb.SweepExpiredRequest()) for server in (one, two, three)))
            assert time.monotonic() < deadline
    assert scalar(warehouse_database_url, "SELECT COUNT(*) FROM movements WHERE type = 'EXPIRED'") == 300
    await assert_clean(warehouse_database_url)


@pytest.fixture
def own_url(own_server: LocalServer) -> str:
    own_server.start()
    url = f"{own_server.url}/{fresh('warehouse').replace('-', '_')}"
    migrating.upgrade(url, "warehouse")
    return url


async def _wait_for_health(calls: Calls, wanted: int) -> None:
    deadline = time.monotonic() + 10
    for service in ("", *SERVICES):
        while await calls.status(service) != wanted:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_killed_database_is_told_and_survived(own_server: LocalServer, own_url: str) -> None:
    async with serving(own_url, database=QUICK, health_check_seconds=0.2) as calls:
        await calls.keep({(1, 1): 10})
        request = reserve((1, 1, 3))
        await _wait_for_health(calls, SERVING)
        own_server.kill()
        began = time.monotonic()
        for call in (
            calls.holds.Reserve(request),
            calls.holds.CheckStock(pb.CheckStockRequest(items=request.lines)),
            calls.holds.GetReservation(pb.GetReservationRequest(reservation_id="x")),
            calls.holds.SweepExpired(pb.SweepExpiredRequest()),
        ):
            no = await refused(call)
            assert (no.code, no.reason) == ("UNAVAILABLE", "DATABASE_AWAY")
            assert no.retry_seconds
            assert "127.0.0.1" not in no.message
        assert time.monotonic() - began < 12
        await _wait_for_health(calls, NOT_SERVING)
        own_server.start()  # not in a thread of a pool: the server ends with the thread that started it
        await _wait_for_health(calls, SERVING)
        await calls.holds.Reserve(request)
        assert await calls.level() == (10, 3)
    await assert_clean(own_url)


async def test_a_frozen_database_costs_a_bounded_time(own_server: LocalServer, own_url: str) -> None:
    async with serving(own_url, database=QUICK, health_check_seconds=0.2) as calls:
        await calls.keep({(1, 1): 10})
        request = reserve((1, 1, 3))
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            ends = await asyncio.gather(
                refused(calls.holds.Reserve(request)),
                refused(calls.holds.CheckStock(pb.CheckStockRequest(items=request.lines))),
                refused(calls.holds.GetReservation(pb.GetReservationRequest(reservation_id="x"))),
            )
            assert {(no.code, no.reason) for no in ends} == {("UNAVAILABLE", "DATABASE_AWAY")}
            assert time.monotonic() - began < 8
            await _wait_for_health(calls, NOT_SERVING)
            hasty = await refused(calls.holds.Reserve(request, timeout=0.3))
            assert hasty.code == "DEADLINE_EXCEEDED"
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await calls.holds.Reserve(request, timeout=3)
        await _wait_for_health(calls, SERVING)
        assert await calls.level() == (10, 3)
    await assert_clean(own_url)


async def test_a_frozen_database_does_not_break_a_callers_deadline(own_server: LocalServer, own_url: str) -> None:
    """With the bounds that people run it with. One of the calls is in the batch at work, the others wait behind it."""
    async with serving(own_url) as calls:
        await calls.keep({(1, 1): 10})
        assert own_server.pid is not None
        requests = [reserve((1, 1, 1)) for _ in range(3)]
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            patient = asyncio.ensure_future(_coroutine(calls.holds.Reserve(reserve((1, 1, 1)))))
            hasty = await asyncio.gather(
                *(refused(calls.holds.Reserve(request, timeout=0.5)) for request in requests),
                refused(calls.holds.GetReservation(pb.GetReservationRequest(reservation_id="x"), timeout=0.5)),
            )
            assert {no.code for no in hasty} == {"DEADLINE_EXCEEDED"}
            assert time.monotonic() - began < 2
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await asyncio.wait_for(patient, 3)
        for request in requests:
            await calls.holds.Reserve(request, timeout=3)
        assert await calls.level() == (10, 4)
    await assert_clean(own_url)


async def test_a_server_stops_in_time_though_its_database_is_frozen(own_server: LocalServer, own_url: str) -> None:
    assert own_server.pid is not None
    try:
        async with serving(own_url, database=QUICK) as calls:
            await calls.keep({(1, 1): 10})
            os.kill(own_server.pid, signal.SIGSTOP)
            pending = asyncio.ensure_future(outcome(calls.holds.Reserve(reserve((1, 1, 3)))))
            await asyncio.wait([pending], timeout=0.2)
            began = time.monotonic()
        assert time.monotonic() - began < 8
        await asyncio.gather(pending, return_exceptions=True)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


async def test_a_server_starts_without_its_database_and_says_so(own_server: LocalServer, own_url: str) -> None:
    own_server.kill()
    async with serving(own_url, database=QUICK, health_check_seconds=0.2) as calls:
        assert await calls.status() == NOT_SERVING
        own_server.start()  # not in a thread of a pool: the server ends with the thread that started it
        await _wait_for_health(calls, SERVING)
        await calls.keep({(1, 1): 10})
