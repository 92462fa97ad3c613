"""The audit finds each kind of damage and names the rows; the repair mends counters; constraints stop the rest."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pymysql
import pytest
import pytest_asyncio
from sqlalchemy import text

from service_kit.database.database import Database
from stockwarden_client.v1.stock_pb2 import AddStockRequest, CreateProductRequest, CreateWarehouseRequest
from tests.kits.processes import ROOT, clean_environment
from tests.kits.warehouse_kit import (
    Calls,
    assert_clean,
    cancel,
    commit,
    make_overdue,
    scalar,
    serving,
    sql,
)
from warehouse.audit.checking import FINDINGS_MAX, audit, repair
from warehouse.audit.queries import By
from warehouse.audit.slices import slices
from warehouse.settings import AuditSettings

pytestmark = pytest.mark.sql


@dataclass(frozen=True)
class Stock:
    """A database with one reservation in each state; the ids of the open one and of the sold one."""

    url: str
    calls: Calls
    open_id: str
    sold_id: str


@pytest_asyncio.fixture
async def stock(warehouse_database_url: str) -> AsyncIterator[Stock]:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 100, (2, 1): 50})
        expired = await calls.hold((1, 1, 1))
        await make_overdue(warehouse_database_url, expired.reservation_id)
        await calls.holds.Commit(commit(order_id=expired.order_id, if_expired=2))
        held, sold, cancelled = [await calls.hold((1, 1, number), (2, 1, 1)) for number in (5, 6, 7)]
        await calls.holds.Commit(commit(reservation_id=sold.reservation_id))
        await calls.holds.Cancel(cancel(reservation_id=cancelled.reservation_id))
        await calls.holds.Cancel(cancel(order_id="never seen"))
        await assert_clean(warehouse_database_url)
        yield Stock(warehouse_database_url, calls, held.reservation_id, sold.reservation_id)


LEVEL = "product_id 1, warehouse_id 1"
DAMAGE = {
    "reserved too high": ("UPDATE stock_levels SET reserved = reserved + 1 WHERE product_id = 1", LEVEL),
    "reserved too low": ("UPDATE stock_levels SET reserved = reserved - 1 WHERE product_id = 1", LEVEL),
    "on_hand changed": ("UPDATE stock_levels SET on_hand = on_hand + 7 WHERE product_id = 1", LEVEL),
    "version changed": ("UPDATE stock_levels SET version = version + 1 WHERE product_id = 1", LEVEL),
    "a movement deleted": ("DELETE FROM movements WHERE product_id = 1 AND sequence = 3", LEVEL),
    "the last movement deleted": ("DELETE FROM movements WHERE product_id = 1 ORDER BY sequence DESC LIMIT 1", LEVEL),
    "a movement changed": (
        "UPDATE movements SET on_hand_after = on_hand_after + 1 WHERE product_id = 1 AND sequence = 3",
        LEVEL,
    ),
    "a level deleted": ("DELETE FROM stock_levels WHERE product_id = 1", LEVEL),
    "an open reservation deleted": ("DELETE FROM reservations WHERE reservation_id = '{open}'", "{open}"),
    "a sold reservation deleted": ("DELETE FROM reservations WHERE reservation_id = '{sold}'", "{sold}"),
    "lines deleted": ("DELETE FROM reservation_lines WHERE reservation_id = '{open}'", "{open}"),
    "a line's quantity changed": (
        "UPDATE reservation_lines SET quantity = quantity - 1 WHERE reservation_id = '{open}' AND product_id = 1",
        "{open}",
    ),
    "reopened by hand": (
        "UPDATE reservations SET state = 'RESERVED', closed_at = NULL WHERE reservation_id = '{sold}'",
        "{sold}",
    ),
    "closed by hand": (
        "UPDATE reservations SET state = 'CANCELLED', closed_at = created_at WHERE reservation_id = '{open}'",
        "{open}",
    ),
    "sold twice": (
        "UPDATE reservation_lines SET committed_quantity = 0 WHERE reservation_id = '{sold}' AND product_id = 1",
        "{sold}",
    ),
    "an event deleted": ("DELETE FROM outbox WHERE type LIKE '%committed%' LIMIT 1", "event_id"),
    "an event too many": (
        "INSERT INTO outbox VALUES (UUID(), 'warehouse.stock.changed.v1', 'x', '{{}}', '', UTC_TIMESTAMP(6), '')",
        "event_id",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_each_kind_of_damage_is_found_and_named(stock: Stock, kind: str) -> None:
    statement, named = (one.format(open=stock.open_id, sold=stock.sold_id) for one in DAMAGE[kind])
    sql(stock.url, statement)
    report = await audit(stock.url)
    assert not report.is_clean
    assert any(named in finding for check in report.checks for finding in check.findings)
    # However small the slices, the same rows are found, once.
    sliced = await audit(stock.url, AuditSettings(slice_rows=2))
    assert [sorted(check.findings) for check in sliced.checks] == [sorted(check.findings) for check in report.checks]


async def test_slices_hold_all_rows_and_no_more_than_they_may(stock: Stock) -> None:
    await asyncio.gather(*(stock.calls.hold((1, 1, 1)) for _ in range(20)))
    rows = 7
    counts = {
        By.RESERVATION: ("reservations", "reservation_id > :low AND (:high IS NULL OR reservation_id <= :high)"),
        By.REQUEST: ("request_ids", "request_id > :low AND (:high IS NULL OR request_id <= :high)"),
        By.PRODUCT_AND_HASH: (
            "movements",
            "product_id > :low AND product_id <= :high AND MOD(CRC32(reference), :parts) = :part",
        ),
        By.HASH: ("outbox", "MOD(CRC32(event_id), :parts) = :part"),
    }
    database = Database(stock.url)
    async with database.engine.connect() as connection:
        for by, (table, where) in counts.items():
            parts = [part async for part in slices(connection, by, rows)]
            sizes = [
                (await connection.execute(text(f"SELECT COUNT(*) FROM {table} WHERE {where}"), part)).scalar_one()
                for part in parts
            ]
            assert sum(sizes) == scalar(stock.url, f"SELECT COUNT(*) FROM {table}")
            assert len(parts) >= sum(sizes) / rows
            if by in (By.RESERVATION, By.REQUEST):
                assert max(sizes) <= rows
    await database.close()


async def test_when_its_time_is_over_it_says_so(stock: Stock) -> None:
    report = await audit(stock.url, AuditSettings(time_limit_seconds=1e-9))
    assert not report.is_complete
    assert report.summary.startswith("the time was over: 13 of 13 checks were not completed")
    done = run_audit(stock.url, WAREHOUSE_AUDIT__TIME_LIMIT_SECONDS="0.000000001")
    assert (done.returncode, "WAREHOUSE_AUDIT__TIME_LIMIT_SECONDS" in done.stderr) == (3, True)


async def findings_of(url: str, beginning: str) -> str:
    """What the checks whose titles begin so have found."""
    report = await audit(url)
    return "\n".join(
        finding for check in report.checks if check.title.startswith(beginning) for finding in check.findings
    )


@pytest.mark.parametrize("damage", ["DELETE FROM reservations", "UPDATE reservations SET state = 'EXPIRED'"])
async def test_every_reservation_of_an_answer_is_looked_for(stock: Stock, damage: str) -> None:
    holds = [await stock.calls.hold((1, 1, 1), order_id="in three") for _ in range(3)]
    await stock.calls.holds.Commit(commit(order_id="in three", request_id="C"))
    sql(stock.url, f"{damage} WHERE reservation_id = %s", holds[2].reservation_id)
    found = await findings_of(stock.url, "5. each reservation")
    assert f"request_id C, reservation_id {holds[2].reservation_id}" in found
    assert holds[0].reservation_id not in found


async def test_the_movement_of_an_answer_is_looked_for(stock: Stock) -> None:
    last = scalar(stock.url, "SELECT MAX(sequence) FROM movements WHERE product_id = 2")
    added = await stock.calls.stock.AddStock(
        AddStockRequest(request_id="more", product_id=2, warehouse_id=1, quantity=1)
    )
    assert added.movement.sequence == last + 1
    sql(stock.url, "DELETE FROM movements WHERE product_id = 2 AND sequence = %s", last + 1)
    found = await findings_of(stock.url, "5. each movement")
    assert found == f"request_id more, product_id 2, warehouse_id 1, sequence {last + 1}"


@pytest.mark.parametrize("table", ["product", "warehouse"])
async def test_the_catalogue_entry_of_an_answer_is_looked_for(stock: Stock, table: str) -> None:
    await stock.calls.stock.CreateProduct(
        CreateProductRequest(request_id="product", product_id=77, sku="7", name="Seven")
    )
    await stock.calls.stock.CreateWarehouse(CreateWarehouseRequest(request_id="warehouse", warehouse_id=77, code="7"))
    assert await findings_of(stock.url, "5.") == ""
    sql(stock.url, f"DELETE FROM {table}s WHERE {table}_id = 77")
    assert f"request_id {table}" in await findings_of(stock.url, "5. each product")


@pytest.mark.parametrize("kind", ["reserved too high", "reserved too low", "on_hand changed", "version changed"])
async def test_repair_mends_counters_and_leaves_a_movement(stock: Stock, kind: str) -> None:
    before = (await stock.calls.level(1, 1), await stock.calls.level(2, 1))
    sql(stock.url, DAMAGE[kind][0])
    assert await repair(stock.url) == 1
    await assert_clean(stock.url)
    assert (await stock.calls.level(1, 1), await stock.calls.level(2, 1)) == before
    query = "SELECT product_id, type, actor, notes FROM movements ORDER BY created_at DESC, sequence DESC LIMIT 1"
    [(product, kind_of_movement, actor, notes)] = sql(stock.url, query)
    assert (product, kind_of_movement, actor) == (1, "ADJUSTMENT", "system")
    assert notes.startswith("repair: the counters said on_hand ")
    await stock.calls.holds.Commit(commit(reservation_id=stock.open_id))
    await assert_clean(stock.url)


async def test_repair_follows_a_reservation_that_was_ended_by_hand(stock: Stock) -> None:
    sql(stock.url, DAMAGE["closed by hand"][0].format(open=stock.open_id))
    assert await repair(stock.url) == 2
    assert await stock.calls.level(1, 1) == (93, 0)
    report = await audit(stock.url)
    wrong = [check.title for check in report.checks if check.findings]
    assert wrong == ["4. each reservation had its effect exactly once"]


async def test_the_audit_is_right_under_load(stock: Stock) -> None:
    async def shop() -> None:
        for _ in range(15):
            held = await stock.calls.hold((1, 1, 1), (2, 1, 1))
            await stock.calls.holds.Cancel(cancel(reservation_id=held.reservation_id))

    shoppers = asyncio.gather(*(shop() for _ in range(10)))
    audits = 0
    while not shoppers.done():
        await assert_clean(stock.url)
        audits += 1
    await shoppers
    assert audits > 1


async def test_the_first_findings_are_shown(stock: Stock) -> None:
    for _ in range(FINDINGS_MAX + 5):
        sql(stock.url, DAMAGE["an event too many"][0].format())
    [check] = [check for check in (await audit(stock.url)).checks if check.findings]
    assert len(check.findings) == FINDINGS_MAX + 1
    assert "more" in check.findings[-1]


def run_audit(url: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "warehouse", "audit", *options],
        env=clean_environment({"WAREHOUSE_DATABASE_URL": url, "PATH": os.environ["PATH"], **settings}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_line(stock: Stock) -> None:
    done = run_audit(stock.url)
    assert (done.returncode, done.stdout.splitlines()[-1][:6]) == (0, "clean:")
    sql(stock.url, DAMAGE["reserved too high"][0])
    done = run_audit(stock.url)
    assert done.returncode == 1
    assert LEVEL in done.stdout
    done = run_audit(stock.url, "--repair", "--dry-run")
    assert done.returncode == 1
    assert "repair: the counters of product 1 in warehouse 1 are corrected" in done.stdout
    assert run_audit(stock.url).returncode == 1
    done = run_audit(stock.url, "--repair")
    assert done.returncode == 0, done.stdout
    assert "Repaired 1 stock levels" in done.stdout
    assert run_audit(stock.url).returncode == 0
    done = run_audit("mysql://nobody@127.0.0.1:1/none")
    assert done.returncode not in (0, 1) or "127.0.0.1" in done.stderr + done.stdout


CHECK_VIOLATED = {4025, 3819}
FORBIDDEN = (
    "UPDATE stock_levels SET reserved = -1 WHERE product_id = 1",
    "UPDATE stock_levels SET reserved = on_hand + 1 WHERE product_id = 1",
    "UPDATE stock_levels SET on_hand = 0 WHERE product_id = 1",
    "UPDATE reservations SET state = 'SOLD'",
    "UPDATE reservations SET state = 'RESERVED' WHERE state = 'COMMITTED'",
    "UPDATE reservations SET closed_at = NULL WHERE state = 'COMMITTED'",
    "UPDATE reservation_lines SET quantity = 0",
    "UPDATE reservation_lines SET requested_quantity = quantity - 1",
    "UPDATE reservation_lines SET committed_quantity = -1",
    "UPDATE reservation_lines SET committed_quantity = quantity + 1",
    "UPDATE movements SET type = 'STOLEN'",
    "UPDATE movements SET reserved_after = on_hand_after + 1",
    "UPDATE movements SET reserved_after = -1, on_hand_after = 5",
    "UPDATE products SET list_price = -1, currency = 'USD'",
    "UPDATE products SET list_price = 1, currency = NULL",
    "UPDATE products SET list_price = NULL, currency = 'USD'",
)
OTHERWISE_FORBIDDEN = {
    "DELETE FROM products": 1451,
    "DELETE FROM warehouses": 1451,
    "UPDATE products SET sku = 'same'": 1062,
    "UPDATE reservations SET order_id = 'same'": 1062,
    "INSERT INTO stock_levels VALUES (77, 1, 0, 0, 0, NOW(), NOW())": 1452,
}


async def test_the_database_itself_refuses_what_must_never_be(stock: Stock) -> None:
    sql(stock.url, "SELECT 1")
    for statement in FORBIDDEN:
        with pytest.raises(pymysql.err.MySQLError) as failure:
            sql(stock.url, statement)
        assert failure.value.args[0] in CHECK_VIOLATED, (statement, failure.value)
    for statement, number in OTHERWISE_FORBIDDEN.items():
        with pytest.raises(pymysql.err.MySQLError) as failure:
            sql(stock.url, statement)
        assert failure.value.args[0] == number, (statement, failure.value)
    await assert_clean(stock.url)


async def test_ids_that_differ_in_case_are_two(stock: Stock) -> None:
    lower = await stock.calls.hold((1, 1, 1), order_id="case", request_id="case")
    upper = await stock.calls.hold((1, 1, 1), order_id="CASE", request_id="CASE")
    accent = await stock.calls.hold((1, 1, 1), order_id="cäse", request_id="cäse")
    assert len({lower.reservation_id, upper.reservation_id, accent.reservation_id}) == 3


async def test_every_event_says_what_changed(stock: Stock) -> None:
    rows = sql(stock.url, "SELECT type, subject, data FROM outbox")
    kinds = {kind for kind, _, _ in rows}
    assert kinds == {
        "warehouse.stock.changed.v1",
        *(f"warehouse.reservation.{verb}.v1" for verb in ("reserved", "committed", "cancelled", "expired")),
    }
    for kind, subject, document in rows:
        data = json.loads(document)
        if kind == "warehouse.stock.changed.v1":
            assert subject.startswith("products/")
            assert data["level"]["on_hand"] == data["movement"]["quantity"]
        else:
            assert data["reservation"]["order_id"] == subject
            assert len(data["levels"]) == len(data["reservation"]["lines"])
