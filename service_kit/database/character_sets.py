"""Every text column of a service's database holds any text, and compares it byte by byte.

What a column is made with comes from its table, and that of a table from its database, unless it is said: in a
database of latin1 or utf8mb3 an address with an emoji can't be stored, and where upper and lower case are the same, ids
are mixed up.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import Database, DatabaseFault

log = structlog.get_logger(__name__)
CHARACTER_SET = "utf8mb4"
COLLATION = "utf8mb4_bin"
ASCII_COLLATION = "ascii_bin"
"""Of columns for words and ids of our own making."""
COLUMNS_LOGGED_MAX = 20
"""How many columns the log names."""
_LOCKED_TABLE = "migration_lock"
"""Has no text, and somebody holds it while a database is migrated."""

_WRONG_COLUMNS = f"""
    SELECT c.table_name, c.column_name, c.collation_name
    FROM information_schema.columns AS c
    JOIN information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
    WHERE c.table_schema = DATABASE() AND t.table_type = 'BASE TABLE'
    AND c.collation_name NOT IN ('{COLLATION}', '{ASCII_COLLATION}')
    ORDER BY c.table_name, c.ordinal_position
"""  # noqa: S608 - constants
_WRONG_TABLES = f"""
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND table_collation <> '{COLLATION}'
    AND table_name <> '{_LOCKED_TABLE}'
    ORDER BY table_name
"""  # noqa: S608 - constants


def convert(connection: sqlalchemy.Connection) -> None:
    """Make all tables and their text columns utf8mb4, whatever they were made with; texts stay the same.

    ASCII columns stay as they are. For migrations. The database's own default is left alone: to change it, MySQL waits
    for all who have a table of it open, and so does who waits for us.
    """
    wrong: dict[str, list[str]] = {row[0]: [] for row in connection.exec_driver_sql(_WRONG_TABLES)}
    columns_found: list[Any] = list(connection.exec_driver_sql(_WRONG_COLUMNS))
    for row in columns_found:
        wrong.setdefault(row[0], []).append(row[1])
    quote = connection.dialect.identifier_preparer.quote_identifier
    for table, columns in wrong.items():
        described = {row[0]: row for row in connection.exec_driver_sql(f"SHOW FULL COLUMNS FROM {quote(table)}")}
        changes = [f"DEFAULT CHARACTER SET {CHARACTER_SET} COLLATE {COLLATION}"]
        changes += [f"MODIFY {quote(column)} {definition(described[column])}" for column in columns]
        # exec_driver_sql takes % for a placeholder only if there are values.
        connection.exec_driver_sql(f"ALTER TABLE {quote(table)} {', '.join(changes)}")


def definition(row: Sequence[Any]) -> str:
    """What a column shall be, from a row of SHOW FULL COLUMNS: as it is, but utf8mb4."""
    _, kind, _, null, _, default, _, _, comment = row
    words = [kind, "CHARACTER SET", CHARACTER_SET, "COLLATE", COLLATION, "NULL" if null == "YES" else "NOT NULL"]
    if default is not None:
        words += ["DEFAULT", _literal(default)]
    if comment:
        words += ["COMMENT", _literal(comment)]
    return " ".join(words)


async def report_wrong_columns(database: Database) -> list[str]:
    """Tell in the log which columns can't hold every text, or compare otherwise than byte by byte; returns them.

    Nothing is said if the database can't be asked: it will be said by others that it is away.
    """

    async def read(connection: AsyncConnection) -> list[str]:
        rows: list[Any] = list(await connection.exec_driver_sql(_WRONG_COLUMNS))
        return [f"{row[0]}.{row[1]} ({row[2]})" for row in rows]

    try:
        found = await database.run_in_transaction(read)
    except DatabaseFault:
        return []
    if found:
        log.error(
            "wrong_character_set",
            columns=found[:COLUMNS_LOGGED_MAX],
            count=len(found),
            wanted=COLLATION,
            advice="some texts can't be stored, or ids are mixed up: run `migrate`; what changed them after that, undo",
        )
    return found


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
