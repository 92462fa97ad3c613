"""The text of statements whose values are JSON documents, unpacked by the server with JSON_TABLE. Pure.

One statement serves any number of rows, and its text never changes. A document is an array of rows, each an array of
values; the rows that it is unpacked into are the table `j`, and joining *from* them (`join`) fixes the order in which
rows are locked. Works on MariaDB 10.11+ and MySQL 8.4+.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

_BINARY = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
NUMBER = "BIGINT"
DOCUMENT = f"LONGTEXT {_BINARY}"
"""A text longer than a MEDIUMTEXT column takes, which therefore refuses it; see `text`."""
INSTANT = "INSTANT"
"""A BIGINT of microseconds since 1970 in JSON, a DATETIME(6) in the table."""
HEX = "HEX"
"""Hexadecimal digits in JSON, BINARY in the table."""
JSON = "JSON"
"""The text of a JSON document, and a column of that type in the table."""
_EPOCH = "'1970-01-01 00:00:00'"
_TYPES_IN_JSON = {INSTANT: NUMBER, HEX: f"VARCHAR(64) {_ASCII}", JSON: DOCUMENT}

FREE_ONLY = " FOR UPDATE SKIP LOCKED"
"""Behind a SELECT: lock the rows that nobody else has, and pass over the others."""

Columns = tuple[tuple[str, str], ...]
"""Names and kinds, in the order of a row's values; a kind is one of the words above, or a type of SQL."""


def text(length_max: int) -> str:
    """A type for texts of at most `length_max` characters, in a column that takes as many.

    It is wider by one, because JSON_TABLE makes a value fit, silently: MariaDB cuts it, MySQL puts NULL in its place.
    What is too long is so refused by INSERT, instead of stored in part, and is not looked up as something shorter.
    """
    return f"VARCHAR({length_max + 1}) {_BINARY}"


def ascii_text(length_max: int) -> str:
    """As `text`, in a column of ASCII characters."""
    return f"VARCHAR({length_max + 1}) {_ASCII}"


def sorted_document(rows: Iterable[Any]) -> str:
    """The document of `rows`, sorted, so that the rows are locked in this order."""
    return _encode(sorted(rows)).decode()


def unpack(parameter: str, columns: Columns, nested: str = "", alias: str = "j") -> str:
    """The rows of the document bound to `parameter`, as a table; `nested` is more text behind the columns."""
    return f"JSON_TABLE(%({parameter})s, '$[*]' COLUMNS ({paths(columns)}{nested})) AS {alias}"


def lockable(parameter: str, columns: Columns) -> str:
    """As `unpack`, for a SELECT ... FOR UPDATE: MySQL takes a bare JSON_TABLE for a table to lock, and refuses."""
    names = ", ".join(name for name, _ in columns)
    return f"(SELECT {names} FROM {unpack(parameter, columns, alias='u')}) AS j"


def bounded(select_for_update: str, seconds: float) -> str:
    """A SELECT ... FOR UPDATE that waits for locks for so long and no longer; on both servers, without a round trip.

    Each server reads its own half: MariaDB runs what stands in `/*M! */`, which MySQL takes for a comment; MySQL obeys
    the hint, which MariaDB takes for one. `service_kit.stuck_rows.LOCK_WAITS` has the numbers of what they say then.
    """
    body = select_for_update.lstrip().removeprefix("SELECT ")
    milliseconds = max(1, round(seconds * 1000))
    return (
        f"/*M! SET STATEMENT max_statement_time = {milliseconds / 1000} FOR */ "
        f"SELECT /*+ MAX_EXECUTION_TIME({milliseconds}) */ {body}"
    )


def paths(columns: Columns) -> str:
    """Where each column stands in its row, and what it is there."""
    return ", ".join(
        f"{name} {_TYPES_IN_JSON.get(kind, kind)} PATH '$[{position}]'" for position, (name, kind) in enumerate(columns)
    )


def join(table: str, index: str = "PRIMARY", alias: str = "t") -> str:
    """Look each row up, in the order of the rows before it; the condition (ON ...) is the caller's.

    Without FORCE INDEX, MySQL scans (and locks) a table that it thinks small, or hashes the order away.
    """
    return f"STRAIGHT_JOIN {table} AS {alias} FORCE INDEX ({index})"


def insert(table: str, parameter: str, columns: Columns) -> str:
    """The statement that inserts the rows of the document bound to `parameter`."""
    names = ", ".join(name for name, _ in columns)
    values = ", ".join(value(name, kind) for name, kind in columns)
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM {unpack(parameter, columns)}"


def value(name: str, kind: str) -> str:
    """A column of the unpacked rows, as it is stored."""
    return stored(f"j.{name}", kind)


def stored(value: str, kind: str) -> str:
    """`value`, as it stands in JSON, as it is stored."""
    if kind == INSTANT:
        return later(f"TIMESTAMP{_EPOCH}", value)
    return f"UNHEX({value})" if kind == HEX else value


def row(columns: Columns, alias: str = "t", more: str = "") -> str:
    """A stored row as one JSON array; `more` is the text of further values.

    The driver's work is per column: one column with a document costs less than seven with numbers.
    """
    return f"JSON_ARRAY({', '.join(_shown(f'{alias}.{name}', kind) for name, kind in columns)}{more})"


def microseconds(column: str) -> str:
    """A DATETIME(6) as microseconds since 1970."""
    return f"TIMESTAMPDIFF(MICROSECOND, {_EPOCH}, {column})"


def later(instant: str, microseconds: str) -> str:
    """The DATETIME(6) that comes so many microseconds after another one."""
    return f"TIMESTAMPADD(MICROSECOND, {microseconds}, {instant})"


def _shown(column: str, kind: str) -> str:
    """A column, as it is stored, as it stands in JSON."""
    if kind == INSTANT:
        return microseconds(column)
    if kind == HEX:
        return f"LOWER(HEX({column}))"
    return f"CAST({column} AS CHAR)" if kind == JSON else column
