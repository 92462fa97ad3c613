"""A connection held for long, for commands of several statements in one round trip."""

import re
import time
from functools import lru_cache
from typing import Any

import pymysql
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.connection import Connection
from service_kit.database.engine import Connector
from service_kit.database.errors import LOCK_WAIT_TIMEOUT, NO_QUORUM, SERVER_LOST, error_number
from service_kit.database.trust import Trust

log = structlog.get_logger(__name__)
_COMMIT = re.compile(r"\bCOMMIT\b")


@lru_cache(maxsize=1024)
def _begins_and_ends(statements: str) -> tuple[bool, bool]:
    """Whether a transaction begins in there, and whether one ends. The texts are few, and long."""
    return "START TRANSACTION" in statements, _COMMIT.search(statements) is not None


class DriverSession:
    """A connection of the engine's pool, held for long, for commands of several statements in one round trip.

    SQLAlchemy has no notion of those, so the statements go to the driver, which still escapes every value.
    Not safe for concurrent use: one transaction at a time. A connection that is no good any more is replaced before a
    transaction begins, never within one. Made by `Database.session`.
    """

    def __init__(self, connector: Connector, trust: Trust) -> None:
        self._connector = connector
        self._trust = trust
        self._connection: AsyncConnection | None = None
        self._driver: Connection | None = None
        self._is_open = False

    async def is_mariadb(self) -> bool:
        """Whether this session's server is a MariaDB; connects if need be, never within a transaction."""
        return (await self._ready()).is_mariadb

    async def execute(self, statements: str, values: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
        """Send `statements` (separated by `;`) at once; return the rows of each in turn, [] where it has none.

        The server stops at the first statement that fails; that error is raised and the transaction is still open.
        """
        driver = await self._ready()
        begins, ends = _begins_and_ends(statements)
        # Whatever comes of it, from here on the transaction may be open; said before, so that no failure hides it.
        self._is_open = self._is_open or begins
        try:
            results = await driver.run(statements, values)
        except pymysql.err.OperationalError as error:
            if error_number(error) == LOCK_WAIT_TIMEOUT and await _is_cut_off(driver):
                raise pymysql.err.OperationalError(NO_QUORUM, "the node can't tell what others committed") from error
            raise
        # The server says so, too, unless a proxy drops its flags: in doubt it is open.
        self._is_open = (self._is_open and not ends) or driver.get_transaction_status()
        return results

    async def rollback(self) -> None:
        """Leave the failed transaction; close the connection if even that can't be done."""
        self._is_open = False
        if self._driver is None:
            return
        try:
            await self._driver.rollback()
        except Exception as error:
            log.info("rollback_failed", error=repr(error))
            await self.close()

    async def close(self) -> None:
        """Drop the connection; the next `execute` opens another."""
        connection, self._connection, self._driver = self._connection, None, None
        self._is_open = False
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _ready(self) -> Connection:
        if self._is_open:
            if self._driver is None or self._driver.closed:
                raise pymysql.err.OperationalError(SERVER_LOST, "the connection went away within a transaction")
            return self._driver
        driver = self._driver
        if driver is not None and not await self._trust.allows(driver):
            log.info("database_session_renewed", age_seconds=round(time.monotonic() - driver.made_at, 1))
            await self.close()
        return self._driver or await self._connect()

    async def _connect(self) -> Connection:
        connection = await self._connector.check_out()
        try:
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            assert isinstance(driver, Connection)
            # A lone SELECT must not leave a transaction open: it would hold the tables' metadata locks.
            await driver.run("SET autocommit = 1")
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        self._connection, self._driver = connection, driver
        return driver


async def _is_cut_off(driver: Connection) -> bool:
    """Whether a lock wait that ended was none: Galera uses its number, too, for a transaction that could not begin
    because the node can't find out what the others have committed. After a true one the transaction is still open."""
    if not (driver.is_on_cluster and driver.is_mariadb):
        return False
    try:
        [[(is_within,)]] = await driver.run("SELECT @@in_transaction")
    except Exception as error:
        log.info("cluster_node_cut_off", error=repr(error))
        return True
    return not is_within
