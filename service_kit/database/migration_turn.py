"""Whose turn it is to migrate a database on a cluster, where a locked row keeps nobody out who is at another node.

There the turn is a row that is committed: of two that take it at once, the cluster lets one. Who has it renews it, from
a thread, until it is done; if that program dies, its turn runs out.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
import structlog
from sqlalchemy.engine import Connection, Engine

from service_kit.database.database import is_worth_retrying
from service_kit.database.flavour import SHOW_VARIABLES, causal_reads

log = structlog.get_logger(__name__)
TURN_SECONDS = 30
"""How long a turn lasts that nobody renews; longer than the nodes' clocks may differ."""
RENEWAL_SECONDS = 5.0
_POLL_SECONDS = 0.2
_TABLE = """
    CREATE TABLE IF NOT EXISTS migration_turn (
        id INT PRIMARY KEY, owner CHAR(32) NOT NULL, ends_at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB"""
_IS_THERE = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'migration_turn'"
_ROW = "INSERT IGNORE INTO migration_turn (id, owner, ends_at) VALUES (1, '', NOW(6))"
_TAKE = f"""
    UPDATE migration_turn SET owner = %s, ends_at = NOW(6) + INTERVAL {TURN_SECONDS} SECOND
    WHERE id = 1 AND (owner = %s OR ends_at <= NOW(6))"""  # noqa: S608 - constant text
_GIVE_BACK = "UPDATE migration_turn SET ends_at = NOW(6) WHERE id = 1 AND owner = %s"


class TurnNotTaken(Exception):
    """Another program has been migrating the same database for longer than we wait."""


def see_what_others_did(connection: Connection) -> bool:
    """Let this session read nothing that is out of date. Returns: whether the server belongs to a cluster."""
    rows = connection.exec_driver_sql(SHOW_VARIABLES).all()
    statement = causal_reads({str(row[0]): str(row[1]) for row in rows})
    if statement is not None:
        connection.exec_driver_sql(statement)
    connection.rollback()
    return statement is not None


@contextmanager
def cluster_turn(engine: Engine, patience_seconds: float) -> Iterator[None]:
    """Wait for the turn, have it inside, give it back. Raises: TurnNotTaken, or what the server says."""
    owner, is_over = uuid.uuid4().hex, threading.Event()
    deadline = time.monotonic() + patience_seconds
    while not _take(engine, owner):
        if time.monotonic() > deadline:
            raise TurnNotTaken("another program migrates this database; wait until it has ended, then try again")
        time.sleep(_POLL_SECONDS)
    renewing = threading.Thread(target=_renew, args=(engine, owner, is_over), name="migration-turn", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        is_over.set()
        renewing.join()
        with engine.connect() as connection:
            connection.exec_driver_sql(_GIVE_BACK, (owner,))
            connection.commit()


def _renew(engine: Engine, owner: str, is_over: threading.Event) -> None:
    while not is_over.wait(RENEWAL_SECONDS):
        if not _take(engine, owner):
            log.warning("migration_turn_not_renewed")


def _take(engine: Engine, owner: str) -> bool:
    try:
        with engine.connect() as connection:
            see_what_others_did(connection)
            if connection.exec_driver_sql(_IS_THERE).first() is None:
                connection.exec_driver_sql(_TABLE)
            connection.exec_driver_sql(_ROW)
            is_ours = connection.exec_driver_sql(_TAKE, (owner, owner)).rowcount == 1
            connection.commit()
            return is_ours
    except sqlalchemy.exc.DBAPIError as error:
        if is_worth_retrying(error):
            return False  # another one took it at the same moment
        raise
