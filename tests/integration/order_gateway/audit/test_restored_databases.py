"""One of the two databases is restored from a backup alone: no hold or charge serves two orders, and all is mended."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy.engine import make_url

from order_gateway.audit.agreement import Mending, Problem
from order_gateway.audit.reconcile import lines
from order_gateway.gateway.port import HoldState
from order_gateway.lifecycle import Order, Payment, Reason, Status, Stock
from tests.kits.orders_kit import Shop, Till, shop
from tests.kits.warehouse_kit import assert_clean, connection

pytestmark = pytest.mark.sql


class Backup:
    """A copy of all tables of a database, in another one on the same server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = make_url(url).database
        self._copy = f"{self._name}_backup"

    def _tables(self) -> list[str]:
        return [table for (table,) in self._execute("SHOW TABLES")]

    def _execute(self, *statements: str) -> list[tuple[str, ...]]:
        with connection(self._url) as made, made.cursor() as cursor:
            cursor.execute("SET foreign_key_checks = 0, time_zone = '+00:00'")
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def make(self) -> None:
        """As the database is now."""
        self.drop()
        self._execute(f"CREATE DATABASE {self._copy}")
        for table in self._tables():
            self._execute(
                f"CREATE TABLE {self._copy}.{table} LIKE {table}",
                f"INSERT INTO {self._copy}.{table} SELECT * FROM {table}",
            )

    def restore(self) -> None:
        """As it was then; what was numbered since is numbered again."""
        for table in self._tables():
            self._execute(f"TRUNCATE TABLE {table}", f"INSERT INTO {table} SELECT * FROM {self._copy}.{table}")

    def drop(self) -> None:
        """Away with the copy."""
        self._execute(f"DROP DATABASE IF EXISTS {self._copy}")


@contextlib.contextmanager
def backup_of(url: str) -> Iterator[Backup]:
    backup = Backup(url)
    yield backup
    backup.drop()


class System:
    """Both services, which can be stopped and started again."""

    def __init__(self, orders_url: str, warehouse_url: str) -> None:
        self.orders_url, self.warehouse_url = orders_url, warehouse_url
        self.till = Till()
        self._is_stocked = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Shop]:
        stock, self._is_stocked = 0 if self._is_stocked else 100, True
        async with shop(self.orders_url, self.warehouse_url, self.till, stock) as opened:
            yield opened


@pytest.fixture
def system(orders_database_url: str, warehouse_database_url: str) -> System:
    return System(orders_database_url, warehouse_database_url)


async def found(at: Shop) -> list[tuple[int, Problem, Mending]]:
    return [(one.row.id, one.problem, one.mending) for one in (await at.audit.run()).findings]


async def test_a_number_that_is_used_again_gets_a_hold_and_a_charge_of_its_own(system: System) -> None:
    with backup_of(system.orders_url) as backup:
        async with system.running() as at:
            await at.paid()
            backup.make()
            held, sold = await at.create_order(), await at.paid()
        backup.restore()
        async with system.running() as at:
            again_held, again_sold = await at.create_order(), await at.paid()
            assert [order.id for order in (again_held, again_sold)] == [held.id, sold.id]
            for old, new in ((held, again_held), (sold, again_sold)):
                assert old.reservations[0].reservation_id != new.reservations[0].reservation_id
            assert await at.level() == (94, 4)
            assert system.till.kept == Decimal(60)
            assert len(system.till.charged) == 3
            assert await found(at) == []
            report = await at.core.reconciling().run()
            lost = {(one.name.number, one.hold.state, one.is_number_used) for one in report.lost}
            assert lost == {(held.id, HoldState.RESERVED, True), (sold.id, HoldState.COMMITTED, True)}
    await assert_clean(system.warehouse_url)


async def test_what_the_warehouse_has_for_lost_orders_is_told_before_numbers_are_used_again(system: System) -> None:
    with backup_of(system.orders_url) as backup:
        async with system.running() as at:
            await at.create_order()
            backup.make()
            held, sold, over = await at.create_order(), await at.paid(), await at.cancelled()
            await at.calls.hold((1, 1, 1), order_id="77")
            await at.calls.hold((1, 1, 1), order_id="deadbeef-2-0123456789abcdef0123")
        backup.restore()
        async with system.running() as at:
            report = await at.core.reconciling().run()
            assert {one.name.number for one in report.lost} == {held.id, sold.id}
            assert not any(one.is_number_used for one in report.lost)
            assert (report.lost_count, report.over, report.unclear, report.number_max) == (2, 1, 1, over.id)
            told = "\n".join(lines(report))
            assert f"ALTER TABLE orders AUTO_INCREMENT = {over.id + 1}" in told
            assert f"order {sold.id}, made " in told
            soon = await at.core.reconciling().run(datetime.now(UTC) + timedelta(hours=1))
            assert soon.lost_count == soon.seen == 0


async def test_orders_that_went_on_after_the_backup_go_on_again(system: System) -> None:
    """Paid, cancelled, returned since: the same steps under the same keys, and nobody pays twice."""
    with backup_of(system.orders_url) as backup:
        async with system.running() as at:
            paid, cancelled, untouched, late = [await at.create_order() for _ in range(4)]
            backup.make()
            await at.saga.pay(paid.id, "test")
            await at.saga.pay(late.id, "test")
            await at.saga.cancel(cancelled.id, "test", Reason.CUSTOMER, None)
            kept = system.till.kept
        backup.restore()
        async with system.running() as at:
            await at.execute(f"UPDATE orders SET payment_deadline = NOW(6) - INTERVAL 1 HOUR WHERE id = {late.id}")
            assert await found(at) == [
                (paid.id, Problem.SOLD_BUT_UNPAID, Mending.REPEAT_PAYMENT),
                (cancelled.id, Problem.NOT_HELD, Mending.CANCEL),
                (late.id, Problem.SOLD_BUT_UNPAID, Mending.REPEAT_PAYMENT),
            ]
            await at.mend()
            assert await found(at) == []
            states = [(await at.read(order)).state.status for order in (paid, cancelled, untouched, late)]
            assert states == [Status.PAID, Status.CANCELLED, Status.PENDING, Status.PAID]
            assert system.till.kept == kept
            assert await at.level() == (96, 2)
    await assert_clean(system.warehouse_url)


async def test_an_order_that_was_paid_once_is_refunded_when_it_is_cancelled_now(system: System) -> None:
    """The service was started before anybody looked: its deadline has passed, so it is cancelled."""
    with backup_of(system.orders_url) as backup:
        async with system.running() as at:
            order = await at.create_order()
            backup.make()
            await at.saga.pay(order.id, "test")
        backup.restore()
        async with system.running() as at:
            await at.execute("UPDATE orders SET payment_deadline = NOW(6) - INTERVAL 1 HOUR")
            await at.relay.look()
            await at.relay.stop()
            await at.relay_all()
            ended = (await at.read(order)).state
            assert (ended.status, ended.stock, ended.payment) == (Status.CANCELLED, Stock.RETURNED, Payment.REFUNDED)
            assert system.till.kept == 0
            assert await at.level() == (100, 0)
            assert await found(at) == []


async def test_a_warehouse_that_forgot_gets_everything_again_under_the_same_keys(system: System) -> None:
    with backup_of(system.warehouse_url) as backup:
        async with system.running() as at:
            later_paid, early_paid, later_returned = await at.create_order(), await at.paid(), await at.paid()
            backup.make()
            await at.saga.pay(later_paid.id, "test")
            await at.saga.cancel(later_returned.id, "test", Reason.CUSTOMER, None)
            held, paid, returned, cancelled = [
                await make() for make in (at.create_order, at.paid, at.returned, at.cancelled)
            ]
            before, kept = await at.level(), system.till.kept
        backup.restore()
        async with system.running() as at:
            assert await found(at) == [
                (later_paid.id, Problem.STILL_HELD, Mending.SELL),
                (later_returned.id, Problem.NOT_RETURNED, Mending.GIVE_BACK),
                (held.id, Problem.NOT_HELD, Mending.TAKE_AGAIN),
                (paid.id, Problem.NOT_SOLD, Mending.SELL_AGAIN),
            ]
            await at.mend()
            assert await found(at) == []
            assert (await at.level(), system.till.kept) == (before, kept)
            # It goes on with the hold that it has now.
            sold = (await at.saga.pay(held.id, "test")).order
            assert sold.state.stock is Stock.COMMITTED
            assert await found(at) == []
            assert await seen(at, early_paid, returned, cancelled) == [Status.PAID, Status.CANCELLED, Status.CANCELLED]
    await assert_clean(system.warehouse_url)


async def test_what_the_warehouse_forgot_and_sold_to_others_is_refunded_or_cancelled(system: System) -> None:
    with backup_of(system.warehouse_url) as backup:
        async with system.running() as at:
            backup.make()
            held, paid, shipped = await at.create_order(40), await at.paid(40), await at.paid(20)
            await at.execute(f"UPDATE orders SET status = 'shipped' WHERE id = {shipped.id}")
        backup.restore()
        async with system.running() as at:
            await at.calls.hold((1, 1, 90), order_id="somebody-else")
            await at.mend()
            assert await seen(at, held, paid, shipped) == [Status.CANCELLED, Status.CANCELLED, Status.SHIPPED]
            # What has left the house can't be mended from here.
            assert await found(at) == [(shipped.id, Problem.NOT_SOLD, Mending.SELL_AGAIN)]
            assert system.till.kept == Decimal(200)
            assert await at.level() == (100, 90)


async def seen(at: Shop, *orders: Order) -> list[Status]:
    return [(await at.read(order)).state.status for order in orders]
