"""What each hot statement reads: its index and a handful of rows, however much the tables have grown."""

import json
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import mysql

from service_kit.database.database import Database
from service_kit.times import EPOCH, microseconds_to_database
from tests.conftest import MakeDatabase
from tests.kits.warehouse_kit import connection
from warehouse.reading.queries import StockQueries
from warehouse.rpc import requests
from warehouse.stock.records import State
from warehouse.writing import statements
from warehouse.writing.expiry import Sweeper

pytestmark = pytest.mark.sql
ROWS = 4000
ONE_OF = 17
"""A reservation in the middle, among them all."""
SPARE_ROWS = 40
"""A statement may read this many rows: the few it is about, and the unpacked JSON."""

_NUMBERS = f"JSON_TABLE('{list(range(ROWS))}', '$[*]' COLUMNS (n BIGINT PATH '$')) AS j"
_ID = "CONCAT('01900000-0000-7000-8000-', LPAD(n, 12, '0'))"
_THEN = "TIMESTAMPADD(SECOND, n, '2026-01-01')"
FILL = (
    f"INSERT INTO products SELECT n + 1, CONCAT('S', n), 'n', '', NULL, NULL, {_THEN}, {_THEN} FROM {_NUMBERS}",
    "INSERT INTO warehouses VALUES (1, 'A', 'A', 0, NOW(), NOW()), (2, 'B', 'B', 0, NOW(), NOW())",
    f"INSERT INTO stock_levels SELECT n + 1, 1, 10, 0, 0, {_THEN}, {_THEN} FROM {_NUMBERS}",
    "INSERT INTO stock_levels VALUES (1, 2, 10, 0, 0, NOW(), NOW())",
    # One in a hundred is still open.
    f"""INSERT INTO reservations SELECT {_ID}, CONCAT('o', n), 1, IF(n % 100 = {ONE_OF}, 'RESERVED', 'COMMITTED'),
    {_THEN}, '2025-12-31', IF(n % 100 = {ONE_OF}, NULL, {_THEN}), '', '' FROM {_NUMBERS}""",
    f"INSERT INTO reservation_lines SELECT {_ID}, n % 50 + 1, 1, 1, 1, 0 FROM {_NUMBERS}",
    f"""INSERT INTO movements SELECT 1, 1, n + 1, IF(n % 2, 'RESERVED', 'COMMITTED'), 1, 5, 5, 1, 1, '', '', '', '',
    {_ID}, {_THEN} FROM {_NUMBERS}""",
    f"""INSERT INTO request_ids SELECT CONCAT('r', n), REPEAT('x', 16), CONCAT('[[["', {_ID}, '"]]]'), {_THEN}
    FROM {_NUMBERS}""",
)
GROWING = ("reservations", "reservation_lines", "movements", "request_ids", "stock_levels", "products")


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    filled = make_database("warehouse")
    with connection(filled) as made, made.cursor() as cursor:
        for statement in FILL:
            cursor.execute(statement)
        cursor.execute(f"ANALYZE TABLE {', '.join(GROWING)}")
    return filled


@pytest.fixture
def cursor(url: str) -> Iterator[pymysql.cursors.Cursor]:
    with connection(url) as made, made.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield cursor
        made.rollback()


def reservation_id(number: int = ONE_OF) -> str:
    return f"01900000-0000-7000-8000-{number:012}"


def rows_read(cursor: pymysql.cursors.Cursor, statement: str, values: Any = None) -> int:
    """How many rows the server looked at for `statement`."""
    cursor.execute("FLUSH STATUS")
    cursor.execute(statement, values)
    cursor.fetchall()
    cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(value) for name, value in cursor.fetchall() if name != "Handler_read_retry")


def tables_scanned(cursor: pymysql.cursors.Cursor, statement: str, values: Any = None) -> set[str]:
    """The growing tables that the server's plan reads from end to end."""
    cursor.execute(f"EXPLAIN FORMAT = TRADITIONAL {statement}", values)
    assert cursor.description is not None
    names = [column[0] for column in cursor.description]
    plan = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {row["table"] for row in plan if row["type"] in ("ALL", "index")} & {"t", "r", "l", *GROWING}


RESERVATION = [reservation_id(), "o17", 1, "RESERVED", 1, 1, None, "", "", [[18, 1, 1, 1, 0]]]
VALUES = {
    "levels": json.dumps([[5, 1], [700, 1], [3000, 1]]),
    "reservations": json.dumps([[reservation_id(number)] for number in (17, 900, 3999)]),
    "requests": json.dumps([["r5"], ["r3000"], ["new"]]),
    "orders": json.dumps([["o5"], ["o3000"], ["new"]]),
    "products": json.dumps([[5], [99999]]),
    "warehouses": json.dumps([[1], [3]]),
    "changed_levels": json.dumps([[700, 1, 9, 1, 1, 1, 1]]),
    "changed_reservations": json.dumps([RESERVATION]),
    "committed_reservations": json.dumps([RESERVATION]),
}
STATEMENTS = {
    name: getattr(statements, name)
    for name in (
        "READ_LEVELS",
        "LOCK_LEVELS",
        "READ_TORN_LEVELS",
        "LOCK_RESERVATIONS",
        "READ_LINES",
        "READ_ANSWERS",
        "READ_ORDERS",
        "READ_HOLDS_OF_ORDERS",
        "READ_LINES_OF_ORDERS",
        "READ_PRODUCTS",
        "READ_WAREHOUSES",
    )
} | {kind: statements.WRITES[kind][0] for kind in ("changed_levels", "changed_reservations", "committed_reservations")}
STATEMENTS["look up requests"] = requests.READ


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_of_the_write_path_touch_only_their_rows(cursor: pymysql.cursors.Cursor, name: str) -> None:
    cursor.execute("START TRANSACTION")
    assert tables_scanned(cursor, STATEMENTS[name], VALUES) == set()
    assert rows_read(cursor, STATEMENTS[name], VALUES) <= SPARE_ROWS


def test_locks_are_taken_on_the_wanted_rows_only(cursor: pymysql.cursors.Cursor, url: str) -> None:
    cursor.execute("START TRANSACTION")
    for name in ("LOCK_LEVELS", "LOCK_RESERVATIONS", "changed_levels", "changed_reservations"):
        cursor.execute(STATEMENTS[name], VALUES)
    with connection(url) as other, other.cursor() as rival:
        rival.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        for table, locked in (("stock_levels", 3), ("reservations", 3)):
            rival.execute(f"SELECT 1 FROM {table} FOR UPDATE SKIP LOCKED")
            everything = ROWS + (table == "stock_levels")
            assert len(rival.fetchall()) == everything - locked


class _Spy:
    """Stands where a Database is asked, and keeps the statement."""

    def __init__(self) -> None:
        self.text = ""

    async def run_in_transaction(self, work: Any) -> list[Any]:
        await work(self)
        return []

    async def read_in_snapshot(self, work: Any) -> list[Any]:
        return await self.run_in_transaction(work)

    async def execute(self, query: Select[Any]) -> Any:
        if not self.text:
            compiled = query.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})
            self.text = str(compiled).replace("%%", "%")
        return self

    def all(self) -> list[Any]:
        return []


def spied(make: Any) -> Any:
    async def text() -> str:
        spy = _Spy()
        await make(StockQueries(spy))  # type: ignore[arg-type]
        return spy.text

    return text


_MIDDLE = (EPOCH.replace(year=2026).timestamp() + 2000) * 1_000_000
LISTINGS = {
    "a reservation": spied(lambda q: q.reservation(reservation_id())),
    "an order's": spied(lambda q: q.reservations_newest_first("o5", 0, None, "", 11)),
    "an order's open ones": spied(lambda q: q.reservations_newest_first("o5", 0, State.RESERVED, "", 11)),
    "a product's newest": spied(lambda q: q.reservations_newest_first("", 3, None, "", 11)),
    "a product's next": spied(lambda q: q.reservations_newest_first("", 3, None, reservation_id(2002), 11)),
    "the newest since": spied(lambda q: q.reservations_newest_first("", 0, None, "", 11, 1)),
    "the next since": spied(lambda q: q.reservations_newest_first("", 0, None, reservation_id(2002), 11, 1)),
    "by expiry": spied(lambda q: q.reservations_by_expiry(State.RESERVED, None, 11)),
    "by expiry, next": spied(lambda q: q.reservations_by_expiry(State.COMMITTED, (int(_MIDDLE), "x"), 11)),
    "levels": spied(lambda q: q.levels_of_product(1, None, 11)),
    "a ledger's newest": spied(lambda q: q.movements((1, 1), None, None, None, 11)),
    "a ledger's next": spied(lambda q: q.movements((1, 1), None, None, 2000, 11)),
}


@pytest.mark.parametrize("name", LISTINGS)
async def test_a_page_reads_little_more_than_its_rows(cursor: pymysql.cursors.Cursor, name: str) -> None:
    statement = await LISTINGS[name]()
    assert tables_scanned(cursor, statement) <= {"warehouses"}
    assert rows_read(cursor, statement) <= 2 * SPARE_ROWS


async def test_the_sweep_reads_only_open_holds(cursor: pymysql.cursors.Cursor) -> None:
    spy = _Spy()
    sweeper = Sweeper(spy, None, 10, 1)  # type: ignore[arg-type]
    await sweeper._overdue(None)
    assert "SKIP LOCKED" in spy.text
    assert tables_scanned(cursor, spy.text) == set()
    assert rows_read(cursor, spy.text) <= SPARE_ROWS
    then = microseconds_to_database(int(_MIDDLE))
    spy.text = ""
    await sweeper._overdue((then, reservation_id(2017)))
    assert tables_scanned(cursor, spy.text) == set()
    assert rows_read(cursor, spy.text) <= SPARE_ROWS


async def test_the_database_door_reads_what_is_committed(url: str) -> None:
    """READ COMMITTED on every connection, the clock in UTC, and no backslash escapes."""
    database = Database(url)
    try:
        async with database.engine.connect() as opened:
            names = "@@time_zone, @@sql_mode, @@innodb_lock_wait_timeout"
            settings: tuple[Any, ...] = tuple((await opened.exec_driver_sql(f"SELECT {names}")).one())
            level: Any = (await opened.exec_driver_sql("SHOW VARIABLES LIKE 'transaction_isolation'")).first() or (
                await opened.exec_driver_sql("SHOW VARIABLES LIKE 'tx_isolation'")
            ).one()
    finally:
        await database.close()
    zone, mode, wait = settings
    assert (zone, wait, level[1]) == ("+00:00", database.settings.lock_wait_timeout_seconds, "READ-COMMITTED")
    assert {"NO_BACKSLASH_ESCAPES", "STRICT_ALL_TABLES"} <= set(mode.split(","))
