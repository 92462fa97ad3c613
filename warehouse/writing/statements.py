"""The SQL of the write path: constant text, JSON documents as values.

A batch is handed over as a few documents, sorted, so that its rows are locked in their order; see
`service_kit.database.json_table`. Works on MariaDB 10.11+ and MySQL 8.4+.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from service_kit.database.json_table import (
    DOCUMENT,
    FREE_ONLY,
    HEX,
    INSTANT,
    NUMBER,
    Columns,
    ascii_text,
    insert,
    join,
    lockable,
    microseconds,
    paths,
    row,
    stored,
    text,
    unpack,
    value,
)

OPAQUE_ID = text(64)
UUID = ascii_text(64)
"""In a CHAR(36), but a caller may name a reservation by any opaque id: cut to 36, it could be that of another one."""
WORD = ascii_text(16)
NAME = ascii_text(64)
TEXT = text(255)

# Column orders are the field orders of the classes in `records`.
_LEVEL: Columns = (
    ("product_id", NUMBER),
    ("warehouse_id", NUMBER),
    ("on_hand", NUMBER),
    ("reserved", NUMBER),
    ("version", NUMBER),
    ("created_at", INSTANT),
    ("updated_at", INSTANT),
)
RESERVATION: Columns = (
    ("reservation_id", UUID),
    ("order_id", OPAQUE_ID),
    ("order_sequence", NUMBER),
    ("state", WORD),
    ("expires_at", INSTANT),
    ("created_at", INSTANT),
    ("closed_at", INSTANT),
    ("reason", TEXT),
    ("correlation_id", OPAQUE_ID),
)
LINE: Columns = (
    ("product_id", NUMBER),
    ("warehouse_id", NUMBER),
    ("quantity", NUMBER),
    ("requested_quantity", NUMBER),
    ("committed_quantity", NUMBER),
)
_MOVEMENT: Columns = (
    ("product_id", NUMBER),
    ("warehouse_id", NUMBER),
    ("sequence", NUMBER),
    ("type", WORD),
    ("quantity", NUMBER),
    ("on_hand_before", NUMBER),
    ("on_hand_after", NUMBER),
    ("reserved_before", NUMBER),
    ("reserved_after", NUMBER),
    ("reference", OPAQUE_ID),
    ("notes", TEXT),
    ("actor", TEXT),
    ("correlation_id", OPAQUE_ID),
    ("event_id", UUID),
    ("created_at", INSTANT),
)
_STORED_ANSWER: Columns = (
    ("request_id", OPAQUE_ID),
    ("fingerprint", HEX),
    ("created_at", INSTANT),
    ("answer", DOCUMENT),
)
_EVENT: Columns = (
    ("event_id", UUID),
    ("type", NAME),
    ("subject", OPAQUE_ID),
    ("correlation_id", OPAQUE_ID),
    ("created_at", INSTANT),
    ("traceparent", NAME),
    ("data", DOCUMENT),
)
_NESTED_LINES = f", NESTED PATH '$[9][*]' COLUMNS ({paths(LINE)})"
_KEY: Columns = (("product_id", NUMBER), ("warehouse_id", NUMBER))


BEGIN = "START TRANSACTION"

CLOCK = f"SELECT {microseconds('UTC_TIMESTAMP(6)')}"
"""The database's time, in UTC whatever the session's time zone is. Read after the locks are taken, so that ids and
movements are in the order of the locks; a statement of its own, as UTC_TIMESTAMP is when its statement began."""

_BY_KEY = "ON t.product_id = j.product_id AND t.warehouse_id = j.warehouse_id"
READ_LEVELS = f"SELECT {row(_LEVEL)} FROM {lockable('levels', _KEY)} {join('stock_levels')} {_BY_KEY}"
LOCK_LEVELS = f"{READ_LEVELS} FOR UPDATE"
_LOOKED_AT = lockable("looked_at", _KEY)
LOCK_FREE_LEVELS = f"SELECT {row(_LEVEL)} FROM {_LOOKED_AT} {join('stock_levels')} {_BY_KEY}{FREE_ONLY}"
READ_VERSIONS = f"SELECT t.product_id, t.warehouse_id, t.version FROM {_LOOKED_AT} {join('stock_levels')} {_BY_KEY}"
"""Without locks, right after LOCK_FREE_LEVELS: what is there and was not locked is in somebody else's hands."""

READ_TORN_LEVELS = f"""
    SELECT product_id, warehouse_id
    FROM (SELECT j.product_id, j.warehouse_id, COALESCE(t.version, 0) AS version,
                 (SELECT m.sequence FROM movements AS m
                  WHERE m.product_id = j.product_id AND m.warehouse_id = j.warehouse_id
                  ORDER BY m.sequence DESC LIMIT 1) AS last_sequence
          FROM {unpack("levels", _KEY)} LEFT JOIN stock_levels AS t FORCE INDEX (PRIMARY) {_BY_KEY}) AS seen
    WHERE last_sequence > version"""
"""Levels whose ledger has rows behind their version. Both are written together, and a statement sees both as of one
moment: no writer, however far it has come, makes a sound level look torn."""

_BY_RESERVATION = "ON t.reservation_id = j.reservation_id"
_IDS: Columns = (("reservation_id", UUID),)
LOCK_RESERVATIONS = (
    f"SELECT {row(RESERVATION, more=', JSON_ARRAY()')} FROM {lockable('reservations', _IDS)} "
    f"{join('reservations')} {_BY_RESERVATION} FOR UPDATE"
)
"""Without their lines: an empty array stands in their place."""
LOCK_FREE_RESERVATIONS = f"{LOCK_RESERVATIONS.removesuffix(' FOR UPDATE')}{FREE_ONLY}"
READ_RESERVATION_IDS = (
    f"SELECT t.reservation_id FROM {unpack('reservations', _IDS)} {join('reservations')} {_BY_RESERVATION}"
)
READ_LINES = (
    f"SELECT {row((('reservation_id', UUID), *LINE))} FROM {unpack('reservations', _IDS)} "
    f"{join('reservation_lines')} {_BY_RESERVATION}"
)

_REQUEST: Columns = (("request_id", OPAQUE_ID),)
READ_ANSWERS = (
    f"SELECT {row(_STORED_ANSWER)} FROM {unpack('requests', _REQUEST)} "
    f"{join('request_ids')} ON t.request_id = j.request_id"
)

_ORDER: Columns = (("order_id", OPAQUE_ID),)
READ_ORDERS = f"""
    SELECT j.order_id,
           (SELECT CONCAT(r.order_sequence, ' ', IF(r.expires_at = r.created_at, {microseconds("r.closed_at")}, ''))
            FROM reservations AS r WHERE r.order_id = j.order_id
            ORDER BY r.order_sequence DESC LIMIT 1) AS latest
    FROM {unpack("orders", _ORDER)} HAVING latest IS NOT NULL"""
"""Per order that has any: the number of its latest reservation, and when it was cancelled if that is a tombstone."""

READ_HOLDS_OF_ORDERS = f"""
    SELECT t.order_id, t.reservation_id
    FROM {unpack("orders", _ORDER)} {join("reservations", "reservations_order")} ON t.order_id = j.order_id
    ORDER BY t.order_id, t.order_sequence"""

READ_LINES_OF_ORDERS = f"""
    SELECT l.product_id, l.warehouse_id
    FROM {unpack("orders", _ORDER)}
    {join("reservations", "reservations_order")} ON t.order_id = j.order_id
    {join("reservation_lines", alias="l")} ON l.reservation_id = t.reservation_id"""

_PRODUCTS: Columns = (("product_id", NUMBER),)
_WAREHOUSES: Columns = (("warehouse_id", NUMBER),)
_PRODUCT_FOUND = f"{join('products')} ON t.product_id = j.product_id"
_WAREHOUSE_FOUND = f"{join('warehouses')} ON t.warehouse_id = j.warehouse_id"
READ_PRODUCTS = f"SELECT t.product_id FROM {unpack('products', _PRODUCTS)} {_PRODUCT_FOUND}"
READ_WAREHOUSES = f"SELECT t.warehouse_id FROM {unpack('warehouses', _WAREHOUSES)} {_WAREHOUSE_FOUND}"
_SHARE_FREE_ONLY = "/*M! LOCK IN SHARE MODE SKIP LOCKED */ /*!80000 FOR SHARE SKIP LOCKED */"
"""Each server runs its own half, and takes the other for a comment."""
SHARE_PRODUCTS = f"SELECT t.product_id FROM {lockable('products', _PRODUCTS)} {_PRODUCT_FOUND} {_SHARE_FREE_ONLY}"
SHARE_WAREHOUSES = (
    f"SELECT t.warehouse_id FROM {lockable('warehouses', _WAREHOUSES)} {_WAREHOUSE_FOUND} {_SHARE_FREE_ONLY}"
)
"""What a new level belongs to; its foreign keys would otherwise wait for them while it is written."""

_UPDATE_LEVELS = (
    f"UPDATE {unpack('changed_levels', _LEVEL)} {join('stock_levels')} {_BY_KEY} "
    "SET t.on_hand = j.on_hand, t.reserved = j.reserved, t.version = j.version, "
    f"t.updated_at = {value('updated_at', INSTANT)}"
)
_INSERT_LINES = (
    "INSERT INTO reservation_lines "
    "(reservation_id, product_id, warehouse_id, quantity, requested_quantity, committed_quantity) "
    "SELECT j.reservation_id, j.product_id, j.warehouse_id, j.quantity, j.requested_quantity, j.committed_quantity "
    f"FROM {unpack('new_reservations', RESERVATION[:1], _NESTED_LINES)} WHERE j.product_id IS NOT NULL"
)
_UPDATE_RESERVATIONS = (
    f"UPDATE {unpack('changed_reservations', RESERVATION)} {join('reservations')} {_BY_RESERVATION} "
    f"SET t.state = j.state, t.expires_at = {value('expires_at', INSTANT)}, "
    f"t.closed_at = {value('closed_at', INSTANT)}, t.reason = j.reason"
)
_UPDATE_LINES = (
    f"UPDATE {unpack('committed_reservations', RESERVATION[:1], _NESTED_LINES)} "
    f"{join('reservation_lines')} {_BY_RESERVATION} "
    "AND t.product_id = j.product_id AND t.warehouse_id = j.warehouse_id "
    "SET t.committed_quantity = j.committed_quantity"
)

WRITES = {
    "new_levels": (insert("stock_levels", "new_levels", _LEVEL),),
    "changed_levels": (_UPDATE_LEVELS,),
    "new_reservations": (insert("reservations", "new_reservations", RESERVATION), _INSERT_LINES),
    "changed_reservations": (_UPDATE_RESERVATIONS,),
    "committed_reservations": (_UPDATE_LINES,),
    "movements": (insert("movements", "movements", _MOVEMENT),),
    "answers": (insert("request_ids", "answers", _STORED_ANSWER),),
    "events": (insert("outbox", "events", _EVENT),),
}
"""The statements for each kind of changed rows; the parameter has the name of the kind."""

INLINE_ROWS_MAX = 4
"""Up to so many rows of a kind are inserted with a parameter per value: unpacking a document costs the server as much
as inserting several rows, which nobody notices in a batch and a lone caller does. Past it the driver's work per
value would cost more.
"""
_INLINE: dict[str, tuple[tuple[str, Columns], ...]] = {
    "new_levels": (("stock_levels", _LEVEL),),
    "new_reservations": (("reservations", RESERVATION), ("reservation_lines", RESERVATION[:1] + LINE)),
    "movements": (("movements", _MOVEMENT),),
    "answers": (("request_ids", _STORED_ANSWER),),
    "events": (("outbox", _EVENT),),
}


def insert_inline(kind: str, structs: Sequence[msgspec.Struct]) -> tuple[list[str], dict[str, object]] | None:
    """The statements that insert a few rows, and their values.

    None if there are too many of them, or if this kind is not inserted but updated.
    """
    tables = _INLINE.get(kind)
    if tables is None or len(structs) > INLINE_ROWS_MAX:
        return None
    rows = [msgspec.structs.astuple(struct) for struct in structs]
    texts: list[str] = []
    values: dict[str, object] = {}
    for table, columns in tables:
        own = rows if table != "reservation_lines" else [(row[0], *line) for row in rows for line in _lines_of(row)]
        if own:
            texts.append(_inline_text(table, columns, len(own)))
            values.update((f"{table}_{i}_{j}", row[j]) for i, row in enumerate(own) for j in range(len(columns)))
    return texts, values


@lru_cache(maxsize=4096)
def _inline_text(table: str, columns: Columns, count: int) -> str:
    names = ", ".join(name for name, _ in columns)
    rows = ", ".join(
        "(" + ", ".join(stored(f"%({table}_{i}_{j})s", kind) for j, (_, kind) in enumerate(columns)) + ")"
        for i in range(count)
    )
    return f"INSERT INTO {table} ({names}) VALUES {rows}"


def _lines_of(reservation: Sequence[Any]) -> list[tuple[object, ...]]:
    """The lines of a reservation's row, which stand in its last place."""
    return [msgspec.structs.astuple(line) for line in reservation[len(RESERVATION)]]
