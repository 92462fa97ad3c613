"""Whether the database takes writes, and where new connections lead: asked apart from the pool, so that slow work in
there delays no answer."""

import asyncio
import time

import structlog

from service_kit.database.connection import Connection
from service_kit.database.engine import Connector
from service_kit.database.errors import DatabaseAway, fault_of
from service_kit.database.settings import DatabaseSettings
from service_kit.database.trust import Trust

log = structlog.get_logger(__name__)
CHECK = (
    # Refused, without a table to write to, exactly where this account's writes would be: with 1290 on both servers
    # for one that may not ignore read_only.
    "START TRANSACTION READ WRITE;ROLLBACK;"
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('innodb_read_only', 'tx_read_only', 'transaction_read_only')"
)


class Pulse:
    """Asks on one connection of its own, kept for as long as it is good."""

    def __init__(self, connector: Connector, settings: DatabaseSettings, trust: Trust) -> None:
        self._connector = connector
        self._settings = settings
        self._trust = trust
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._asked_at = -float("inf")
        self._answer: DatabaseAway | None = None

    async def check(self) -> None:
        """Ask whether the database takes writes. Raises: DatabaseAway."""
        came_at = time.monotonic()
        async with self._lock:
            # What was asked after this caller came serves it, too.
            if self._asked_at < came_at:
                self._asked_at = time.monotonic()
                self._answer = await self._ask()
        if self._answer is not None:
            raise DatabaseAway(str(self._answer)) from self._answer.__cause__

    async def look(self) -> None:
        """Find out where a new connection leads; nothing changes if none can be made."""
        try:
            connection = await self._connector.connect_apart()
        except Exception as error:
            log.debug("database_not_looked_at", error=repr(error))
            return
        self._trust.note_server(connection.server)
        await connection.ensure_closed()

    async def close(self) -> None:
        """Close the connections."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.ensure_closed()

    async def _ask(self) -> DatabaseAway | None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_seconds):
                if self._connection is not None and not await self._trust.allows(self._connection):
                    await self.close()
                if self._connection is None:
                    self._connection = await self._connector.connect_apart()
                *_, variables = await self._connection.run(CHECK)
        except Exception as error:
            self._trust.note_failure(error)
            await self.close()
            fault = fault_of(error, 1)
            away = fault if isinstance(fault, DatabaseAway) else DatabaseAway("the database does not answer")
            away.__cause__ = error
            return away
        set_ = [name for name, value in variables if value == "ON"]
        return DatabaseAway(f"the database is read-only ({', '.join(set_)})") if set_ else None
