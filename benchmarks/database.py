"""The databases of a run: schema, stock, and what a long life leaves behind, in bulk SQL."""

import time
from collections.abc import Callable
from typing import Any

import pymysql
from sqlalchemy.engine import make_url

from benchmarks.requests import (
    HOT_PRODUCT_ID,
    SOLD_OUT_PRODUCT_ID,
    SPREAD_FIRST_PRODUCT_ID,
    SPREAD_PRODUCTS,
    WAREHOUSE_ID,
)
from service_kit.database import migrating

ON_HAND = 1_000_000_000
CLOSED_RESERVATIONS = 2_000_000
_ROWS_PER_INSERT = 100_000

_EVENT_ID = "CONCAT('00000000-0000-7000-8000-', LPAD(n, 12, '0'))"
_LONG_AGO = "UTC_TIMESTAMP(6) - INTERVAL 30 DAY"
# One to a million, from ten rows crossed six times: works on every MySQL, whatever its recursion limit.
_DIGITS = "(SELECT 0 AS d UNION ALL " + " UNION ALL ".join(f"SELECT {digit}" for digit in range(1, 10)) + ")"


def _numbers(first: int, count: int) -> str:
    """A subselect of `count` rows (at most a million) with n = first, first + 1, ..."""
    places = max(1, len(str(count - 1)))
    total = " + ".join(f"{10**place} * d{place}.d" for place in range(places))
    crossed = " CROSS JOIN ".join(f"{_DIGITS} AS d{place}" for place in range(places))
    return (
        f"(SELECT {first} + i AS n FROM (SELECT {total} AS i FROM {crossed}) AS counted WHERE i < {count}) AS numbers"
    )


STOCK = (
    (
        "INSERT INTO warehouses (warehouse_id, code, name, created_at, updated_at)"
        f" VALUES ({WAREHOUSE_ID}, 'BENCH', 'Benchmark', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    ),
    (
        "INSERT INTO products (product_id, sku, name, created_at, updated_at)"
        f" SELECT n, CONCAT('SKU-', n), CONCAT('Product ', n), {_LONG_AGO}, {_LONG_AGO}"
        f" FROM {_numbers(1, SPREAD_FIRST_PRODUCT_ID - 1 + SPREAD_PRODUCTS)}"
    ),
    # Ledger first, level from it: the counters and the ledger agree, as the audit wants.
    (
        "INSERT INTO movements (product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,"
        " reserved_before, reserved_after, actor, event_id, created_at)"
        f" SELECT n, {WAREHOUSE_ID}, 1, 'STOCK_IN', {ON_HAND}, 0, {ON_HAND}, 0, 0, 'system', {_EVENT_ID}, {_LONG_AGO}"
        f" FROM {_numbers(1, SPREAD_FIRST_PRODUCT_ID - 1 + SPREAD_PRODUCTS)}"
    ),
    (
        "INSERT INTO movements (product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,"
        " reserved_before, reserved_after, actor, event_id, created_at)"
        f" VALUES ({SOLD_OUT_PRODUCT_ID}, {WAREHOUSE_ID}, 2, 'STOCK_OUT', {ON_HAND}, {ON_HAND}, 0, 0, 0, 'system',"
        f" '00000000-0000-7000-8001-000000000001', {_LONG_AGO})"
    ),
    (
        "INSERT INTO outbox (event_id, type, subject, data, created_at)"
        " SELECT event_id, 'warehouse.stock.changed', CONCAT(product_id), '{}', created_at FROM movements"
    ),
    (
        "INSERT INTO stock_levels (product_id, warehouse_id, on_hand, reserved, version, created_at, updated_at)"
        f" SELECT product_id, {WAREHOUSE_ID}, MIN(on_hand_after), 0, MAX(sequence), MIN(created_at), MAX(created_at)"
        " FROM movements GROUP BY product_id"
    ),
)

# An old reservation is one that was cancelled: every other one was for the hot product, the rest for all others in
# turn. `half` counts them within those halves, `sequence` is where its two movements stand in their level's ledger.
_OLD = (
    "(SELECT n, CONCAT('10000000-0000-7000-8000-', LPAD(n, 12, '0')) AS id,"
    " CONCAT('20000000-0000-7000-8000-', LPAD(n, 12, '0')) AS taken,"
    " CONCAT('30000000-0000-7000-8000-', LPAD(n, 12, '0')) AS released,"
    f" IF(n % 2, {HOT_PRODUCT_ID}, {SPREAD_FIRST_PRODUCT_ID} + n DIV 2 % {SPREAD_PRODUCTS}) AS product_id,"
    f" IF(n % 2, n DIV 2, n DIV 2 DIV {SPREAD_PRODUCTS}) * 2 + 2 AS sequence,"
    f" {_LONG_AGO} AS created_at FROM {{numbers}}) AS old"
)
_MOVEMENT_COLUMNS = (
    "(product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,"
    " reserved_before, reserved_after, reference, actor, event_id, created_at)"
)
_HISTORY = (
    (
        "INSERT INTO reservations (reservation_id, order_id, order_sequence, state, expires_at, created_at, closed_at)"
        f" SELECT id, CONCAT('old-', n), 1, 'CANCELLED', created_at, created_at, created_at FROM {_OLD}"
    ),
    (
        "INSERT INTO reservation_lines"
        " (reservation_id, product_id, warehouse_id, quantity, requested_quantity, committed_quantity)"
        f" SELECT id, product_id, {WAREHOUSE_ID}, 1, 1, 0 FROM {_OLD}"
    ),
    (
        "INSERT INTO request_ids (request_id, fingerprint, answer, created_at)"
        f" SELECT CONCAT('old-', n), UNHEX(MD5(n)), REPEAT('x', 200), created_at FROM {_OLD}"
    ),
    (
        f"INSERT INTO movements {_MOVEMENT_COLUMNS}"
        f" SELECT product_id, {WAREHOUSE_ID}, sequence, 'RESERVED', 1, {ON_HAND}, {ON_HAND}, 0, 1,"
        f" id, 'anonymous', taken, created_at FROM {_OLD}"
    ),
    (
        f"INSERT INTO movements {_MOVEMENT_COLUMNS}"
        f" SELECT product_id, {WAREHOUSE_ID}, sequence + 1, 'RELEASED', 1, {ON_HAND}, {ON_HAND}, 1, 0,"
        f" id, 'anonymous', released, created_at FROM {_OLD}"
    ),
    (
        "INSERT INTO outbox (event_id, type, subject, data, created_at)"
        f" SELECT taken, 'warehouse.reservation.reserved', CONCAT('old-', n), REPEAT('x', 200), created_at FROM {_OLD}"
    ),
    (
        "INSERT INTO outbox (event_id, type, subject, data, created_at)"
        " SELECT released, 'warehouse.reservation.cancelled', CONCAT('old-', n), REPEAT('x', 200), created_at"
        f" FROM {_OLD}"
    ),
)
_HISTORY_LEVELS = (
    "UPDATE stock_levels JOIN (SELECT product_id, warehouse_id, MAX(sequence) AS version FROM movements"
    " GROUP BY product_id, warehouse_id) AS newest USING (product_id, warehouse_id)"
    " SET stock_levels.version = newest.version"
)


def connect(url: str) -> Any:
    """A plain driver connection that commits every statement; used with `with closing(...)`."""
    parsed = make_url(url)
    return pymysql.connect(
        host=parsed.host,
        port=parsed.port or 3306,
        user=parsed.username,
        password=parsed.password or "",
        database=parsed.database,
        charset="utf8mb4",
        autocommit=True,
    )


def make_stocked(url: str) -> None:
    """Make the database of `url`, with the warehouse's schema, every product of the workloads, and no reservation."""
    migrating.upgrade(url, "warehouse")
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            for statement in STOCK:
                cursor.execute(statement)
            cursor.execute("ANALYZE TABLE products, stock_levels, movements, reservations, request_ids")
    finally:
        connection.close()


def add_history(url: str, reservations: int, report: Callable[[int], None]) -> None:
    """Fill the tables with reservations closed long ago, and all the rows they left.

    Args:
        report: told how many have been written, from time to time.
    """
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            for first in range(0, reservations, _ROWS_PER_INSERT):
                count = min(_ROWS_PER_INSERT, reservations - first)
                for statement in _HISTORY:
                    cursor.execute(statement.replace("{numbers}", _numbers(first, count)))
                report(first + count)
            cursor.execute(_HISTORY_LEVELS)
            cursor.execute("ANALYZE TABLE products, stock_levels, movements, reservations, request_ids, outbox")
    finally:
        connection.close()


def wait_for_orders(url: str, timeout_seconds: float) -> None:
    """Until the relay has nothing left to do, or the time is over."""
    give_up = time.monotonic() + timeout_seconds
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            while time.monotonic() < give_up:
                cursor.execute("SELECT 1 FROM intents LIMIT 1")
                if not cursor.fetchall():
                    return
                time.sleep(0.1)
    finally:
        connection.close()


def server_facts(url: str) -> dict[str, str]:
    """What the database server says about itself."""
    connection = connect(url)
    names = ("version", "version_comment", "innodb_flush_log_at_trx_commit", "innodb_buffer_pool_size", "sync_binlog")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL VARIABLES WHERE variable_name IN %s", (names,))
            return {str(name): str(value) for name, value in cursor.fetchall()}
    finally:
        connection.close()
