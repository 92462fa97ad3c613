"""How a database fails: the one table of error numbers, what each kind of failure means, and what is done about it.

A transaction is tried again as a whole for every kind but DATA. None of these numbers says anything about the rows of
the transaction: no batch is halved for them, and a caller hears a fault that says "ask again".

    Fault
    +-- DatabaseFault
        +-- LockRetriesSpent     every try met a deadlock or a lock wait
        +-- DatabaseAway         the server can't be reached, hung up every time, or takes no writes now
"""

from dataclasses import dataclass
from enum import StrEnum

import pymysql
import sqlalchemy


class Fault(Exception):
    """Something outside this program does not work; the cause is chained."""


class DatabaseFault(Fault):
    """The database could not do its part; nothing is known to have been kept."""


class LockRetriesSpent(DatabaseFault):
    """The transaction met a deadlock or a lock wait on every try."""


class DatabaseAway(DatabaseFault):
    """The database can't do its part now: it can't be reached, or refused on every try for a reason of its own."""


class RaceLost(Exception):
    """Raised inside a transaction that must start over because another one was first (a duplicate key, say)."""


class ConnectFailed(pymysql.err.OperationalError):  # type: ignore[misc]
    """No usable connection could be made, whatever the reason; the first argument is the error number."""


class Kind(StrEnum):
    """What a failure means, and so what is done about it."""

    DATA = "data"
    """The statement or its values are wrong: raised as it is; a new try would fail the same way."""
    RACE = "race"
    """Another transaction was first: again; in the end LockRetriesSpent."""
    LOCK = "lock"
    """A deadlock, a lock wait, a conflict in a cluster: nothing is kept; again; in the end LockRetriesSpent."""
    INTERRUPTED = "interrupted"
    """Somebody or a time limit ended the statement: again; in the end DatabaseAway."""
    FULL = "full"
    """The server lacks disk, memory or room for locks: again; in the end DatabaseAway."""
    READ_ONLY = "read-only"
    """This server takes no writes, perhaps because another one does now: every connection is dropped and made again;
    again; in the end DatabaseAway."""
    NO_SERVICE = "no service"
    """This server answers and does nothing (no quorum, shutting down): as READ_ONLY."""
    AWAY = "away"
    """The connection broke or none can be made; what became of a COMMIT under way is unknown. The others are tested
    before they are used; again; in the end DatabaseAway."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the server means by a number."""

    kind: Kind
    text: str


# MariaDB's and MySQL's references agree on these, but where it is said.
MEANINGS: dict[int, Meaning] = {
    1205: Meaning(Kind.LOCK, "lock wait timeout"),
    1213: Meaning(Kind.LOCK, "deadlock; on Galera also a conflict with another node, even at COMMIT"),
    3101: Meaning(Kind.LOCK, "rolled back at COMMIT: conflict with another member (MySQL group replication)"),
    1020: Meaning(Kind.LOCK, "the row has changed since the snapshot was taken (MariaDB)"),
    1317: Meaning(Kind.INTERRUPTED, "the query was killed"),
    1969: Meaning(Kind.INTERRUPTED, "max_statement_time is over (MariaDB)"),
    3024: Meaning(Kind.INTERRUPTED, "max_execution_time is over (MySQL)"),
    1021: Meaning(Kind.FULL, "disk full"),
    1028: Meaning(Kind.FULL, "a sort was given up, usually for lack of room"),
    1037: Meaning(Kind.FULL, "out of memory"),
    1038: Meaning(Kind.FULL, "out of memory for sorting"),
    1041: Meaning(Kind.FULL, "out of resources"),
    1114: Meaning(Kind.FULL, "the table, or the disk under it, is full"),
    1180: Meaning(Kind.FULL, "COMMIT failed in the storage engine: for lack of room, unless it says it was a lock"),
    1206: Meaning(Kind.FULL, "more locks than the lock table takes"),
    1637: Meaning(Kind.FULL, "too many transactions at the same time"),
    3170: Meaning(Kind.FULL, "out of memory for the optimizer (MySQL)"),
    1036: Meaning(Kind.READ_ONLY, "the table is read-only"),
    1290: Meaning(Kind.READ_ONLY, "an option of the server prevents it; only --read-only and its like count"),
    1792: Meaning(Kind.READ_ONLY, "the transaction is read-only"),
    1836: Meaning(Kind.READ_ONLY, "the server runs in read-only mode"),
    1874: Meaning(Kind.READ_ONLY, "InnoDB runs in read-only mode"),
    3989: Meaning(Kind.READ_ONLY, "the schema is read-only (MySQL)"),
    1047: Meaning(Kind.NO_SERVICE, "the node has no quorum or is not yet in the cluster (Galera)"),
    1053: Meaning(Kind.NO_SERVICE, "the server is shutting down"),
    1077: Meaning(Kind.NO_SERVICE, "the server is shutting down"),
    1079: Meaning(Kind.NO_SERVICE, "the server has shut down"),
    3032: Meaning(Kind.NO_SERVICE, "the server is in offline mode"),
    3100: Meaning(Kind.NO_SERVICE, "group replication lets no transaction through (MySQL)"),
    3168: Meaning(Kind.NO_SERVICE, "the server is not available yet"),
    1040: Meaning(Kind.AWAY, "too many connections"),
    1043: Meaning(Kind.AWAY, "the handshake went wrong"),
    1045: Meaning(Kind.AWAY, "login refused"),
    1129: Meaning(Kind.AWAY, "this host is blocked because of many failed connections"),
    1130: Meaning(Kind.AWAY, "this host may not connect"),
    1135: Meaning(Kind.AWAY, "the server can't make another thread"),
    1152: Meaning(Kind.AWAY, "connection aborted"),
    1158: Meaning(Kind.AWAY, "communication failed while reading"),
    1159: Meaning(Kind.AWAY, "communication timed out while reading"),
    1160: Meaning(Kind.AWAY, "communication failed while writing"),
    1161: Meaning(Kind.AWAY, "communication timed out while writing"),
    1184: Meaning(Kind.AWAY, "new connection aborted"),
    1203: Meaning(Kind.AWAY, "this user has as many connections as it may have"),
    1226: Meaning(Kind.AWAY, "this user has used up what it may use"),
    1927: Meaning(Kind.AWAY, "connection killed (MariaDB)"),
    2002: Meaning(Kind.AWAY, "no connection to the server's socket"),
    2003: Meaning(Kind.AWAY, "no connection to the server's host"),
    2006: Meaning(Kind.AWAY, "the server has hung up"),
    2013: Meaning(Kind.AWAY, "connection lost"),
    2014: Meaning(Kind.AWAY, "commands out of order on the connection"),
    2026: Meaning(Kind.AWAY, "no encrypted connection"),
    2061: Meaning(Kind.AWAY, "a login that would give the password away"),
    2055: Meaning(Kind.AWAY, "connection lost"),
    3118: Meaning(Kind.AWAY, "the account is locked (MySQL)"),
    4031: Meaning(Kind.AWAY, "the server hung up on an idle connection (MySQL)"),
    4150: Meaning(Kind.AWAY, "the account is blocked after too many wrong passwords (MariaDB)"),
    4151: Meaning(Kind.AWAY, "the account is locked (MariaDB)"),
}
"""All numbers that are not about data. A number while connecting is AWAY, whether it is in here or not."""

CONNECTION_FAILED = 2003
SERVER_GONE = 2006
SERVER_LOST = 2013
OPTION_PREVENTS = 1290
COMMIT_FAILED = 1180
LOCK_WAIT_TIMEOUT = 1205
NO_QUORUM = 1047
DUPLICATE_KEY = 1062

MUST_MOVE = frozenset({Kind.READ_ONLY, Kind.NO_SERVICE})
"""After these every connection of the process is dropped: what is connected to next may be another server."""
_ABORTS = frozenset({Kind.RACE, Kind.LOCK})
_ENDINGS: dict[Kind, str] = {
    Kind.INTERRUPTED: "the database ended the work each time, or somebody did",
    Kind.FULL: "the database has no room",
    Kind.READ_ONLY: "the database is read-only",
    Kind.NO_SERVICE: "the database does nothing now",
    Kind.AWAY: "the database can't be reached",
}


def error_number(error: BaseException) -> int | None:
    """The server's or driver's error number, whoever wrapped it; None if it has none."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error_number(error.orig)
    if isinstance(error, pymysql.err.MySQLError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return None


def kind_of(error: BaseException) -> Kind:
    """What a failure means, whoever wrapped it."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        kind = Kind.DATA if error.orig is None else kind_of(error.orig)
        return Kind.AWAY if kind is Kind.DATA and error.connection_invalidated else kind
    if isinstance(error, RaceLost):
        return Kind.RACE
    # SQLAlchemy's own: no connection of the pool became free in time.
    lost = (ConnectFailed, OSError, EOFError, TimeoutError, pymysql.err.InterfaceError, sqlalchemy.exc.TimeoutError)
    if isinstance(error, lost):
        return Kind.AWAY
    number = error_number(error)
    if number is None:
        # What the driver says without a number is that it does not understand what came over the connection.
        return Kind.AWAY if isinstance(error, pymysql.err.InternalError) else Kind.DATA
    if number == OPTION_PREVENTS and not _is_about_reading(error):
        return Kind.DATA
    if number == COMMIT_FAILED and "lock" in str(error).lower():
        # So MySQL group replication, and Galera, say that another member was first.
        return Kind.LOCK
    meaning = MEANINGS.get(number)
    return Kind.DATA if meaning is None else meaning.kind


def is_connection_failure(error: BaseException) -> bool:
    """Whether the server was away or hung up: what became of a COMMIT under way is then unknown."""
    return kind_of(error) in (Kind.AWAY, Kind.NO_SERVICE)


def is_worth_retrying(error: BaseException) -> bool:
    """Whether a new try of the whole transaction may succeed where this one failed."""
    return kind_of(error) is not Kind.DATA


def fault_of(error: Exception, tries: int) -> DatabaseFault | None:
    """What a caller hears when the last try failed so; None for what is about data."""
    kind = kind_of(error)
    if kind is Kind.DATA:
        return None
    return LockRetriesSpent(f"no luck in {tries} tries") if kind in _ABORTS else DatabaseAway(_ENDINGS[kind])


def cause_of(error: BaseException | None) -> str:
    """Why a transaction is tried again, in one of a few words: an error number of the server, race or connection."""
    number = error_number(error) if error is not None else None
    if number is not None:
        return str(number)
    return "race" if isinstance(error, RaceLost) else "connection"


def _is_about_reading(error: BaseException) -> bool:
    """Whether the option that prevents something is --read-only, --super-read-only or --innodb-read-only."""
    text = str(error).lower().replace("_", "-")
    return "read-only" in text
