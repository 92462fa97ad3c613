"""Several statements and their COMMIT in one round trip, of which the server keeps all or nothing.

Sent one after the other in a packet, statements are not safe everywhere. On a Galera cluster a write set from another
node ends the transaction wherever it stands, also between two statements; the server then goes on with the next one,
which commits by itself, and COMMIT has nothing to commit and says OK. What holds instead:

- MariaDB: the packet is one compound statement. What is ended within it fails as a whole, with 1213. It first makes
  sure that the transaction is still the one that an earlier packet began. (It is also a little faster, because the
  server answers once.)
- MySQL has no such statement and does not need it: a transaction that group replication ends stays as it is, ended,
  until its own session asks for something. The next statement that touches a row, or COMMIT, fails (1213, 1180 or
  3101), and the server drops the rest of the packet.

A session whose connection was lost never goes on within a transaction on another one (`DriverSession`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from service_kit.database.database import DriverSession

BEGIN = "START TRANSACTION"
COMMIT = "COMMIT"
_IS_STILL_WITHIN = (
    "IF @@in_transaction = 0 THEN SIGNAL SQLSTATE '40001' "
    "SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'the transaction was ended by another node'; END IF"
)
LONG = 1000
"""Characters from which on a value is set before the compound statement, in a variable of the session: MariaDB copies
what stands within one several times, and converts it character by character. (Were a variable of another session read,
it would be NULL, and nothing would be written; but there `_IS_STILL_WITHIN` fails.)
"""
Rows = list[tuple[Any, ...]]


async def finish(session: DriverSession, statements: Sequence[str], values: dict[str, Any]) -> list[Rows]:
    """Carry out the last statements of the transaction that is open in `session`, and commit it.

    Returns: the rows of each statement that gives any, in turn.

    Raises: what the driver raises; the transaction is then to be rolled back, and nothing of it is kept unless the
        answer to COMMIT was lost.
    """
    return await _send(session, _IS_STILL_WITHIN, (), statements, values)


async def transact(session: DriverSession, statements: Sequence[str], values: dict[str, Any]) -> list[Rows]:
    """Carry out `statements` as one transaction of its own. Returns, raises: as `finish`."""
    return await _send(session, BEGIN, (BEGIN,), statements, values)


async def _send(
    session: DriverSession, opening: str, flat_opening: Sequence[str], statements: Sequence[str], values: dict[str, Any]
) -> list[Rows]:
    if not await session.is_mariadb():
        return await _rows(session, ";".join((*flat_opening, *statements, COMMIT)), values)
    long = [name for name, value in values.items() if isinstance(value, str) and len(value) >= LONG]
    within = _compound((opening, *(_with_variables(statement, long) for statement in statements)))
    if long:
        assignments = ", ".join(f"@{name} = %({name})s" for name in long)
        within = f"SET {assignments};{within}"
    return await _rows(session, within, values)


def _compound(statements: Iterable[str]) -> str:
    return f"BEGIN NOT ATOMIC {';'.join((*statements, COMMIT))};END"


def _with_variables(statement: str, names: Iterable[str]) -> str:
    """A statement that takes these values from variables of the session instead."""
    for name in names:
        statement = statement.replace(f"%({name})s", f"@{name}")
    return statement


async def _rows(session: DriverSession, text: str, values: dict[str, Any]) -> list[Rows]:
    return [rows for rows in await session.execute(text, values) if rows]
