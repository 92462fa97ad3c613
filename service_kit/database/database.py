"""The one door to MySQL: engine, transactions, and which failures are worth another try.

A transaction is retried as a whole, here and nowhere else, and only for failures that are no matter of its data: the
table in `errors` says which. A function that runs inside must therefore have no effect outside its
transaction, and must find out by itself (by a request id) whether an earlier try of it was committed after all.

The parts, all of which are used through here: `settings` (bounds), `errors` (the table of error numbers), `connection`
(one connection and the set-up of its session), `trust` (which connections are still good), `engine` (the pool),
`session` (connections held for long), `pulse` (health).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import tenacity
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from service_kit.database.engine import Connector
from service_kit.database.errors import (
    DUPLICATE_KEY,
    SERVER_LOST,
    DatabaseAway,
    DatabaseFault,
    Fault,
    LockRetriesSpent,
    RaceLost,
    cause_of,
    error_number,
    fault_of,
    is_connection_failure,
    is_worth_retrying,
)
from service_kit.database.pulse import Pulse
from service_kit.database.session import DriverSession
from service_kit.database.settings import DatabaseSettings, service_database_url
from service_kit.database.trust import Trust
from service_kit.database_url import read_database_url
from service_kit.metrics import Gauge, Histogram, Measure, Tally

log = structlog.get_logger(__name__)
T = TypeVar("T")
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
"""Begins a transaction whose reads all see the database as of one moment."""


class Database:
    """An engine and the only ways to use it.

    Args:
        url: `mysql://user:password@host:port/database`; `?tls=on` insists on an encrypted connection, and so does
            `?tls_ca=FILE`, for a CA that the system does not know.
        settings: the bounds.

    Attributes:
        connector: makes its connections.
        trust: which of its connections are still good.
        sessions_pinned: how many connections of the pool are never given back once they are used.

    Raises: BadDatabaseUrl.
    """

    def __init__(self, url: str, settings: DatabaseSettings | None = None) -> None:
        self.settings = settings or DatabaseSettings()
        self.address = read_database_url(url)
        self.trust = Trust(self.settings)
        self.connector = Connector(self.address, self.settings, self.trust)
        self.engine: AsyncEngine = self.connector.engine
        self.sessions_pinned = 0
        self._pulse = Pulse(self.connector, self.settings, self.trust)
        self._tries = Histogram(
            "database_transaction_duration_seconds", "The time that each try of a transaction took."
        )
        self._tries_seconds = self._tries.series()
        self._retries = Tally("database_transaction_retries", "Transactions tried again, by cause.", ("cause",))

    @property
    def measures(self) -> list[Measure]:
        """What it counts, for metrics."""
        pool = self.engine.pool
        in_use = Gauge(
            "database_connections_in_use",
            f"Connections in use, of {self.settings.pool_size}.",
            lambda: pool.checkedout() if isinstance(pool, QueuePool) else 0,
        )
        return [self._tries, self._retries, in_use]

    def session(self) -> DriverSession:
        """A connection that is never given back once it is used."""
        self.sessions_pinned += 1
        return DriverSession(self.connector, self.trust)

    async def run_in_transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction, commit, and return its result.

        `work` is called again, in a new transaction, after a lock error or a lost connection.

        Raises:
            LockRetriesSpent, DatabaseAway: when the tries are used up.
            Exception: whatever else `work` or the server raised; nothing was kept then.
        """

        async def attempt() -> T:
            connection = await self.connector.check_out()
            try:
                async with connection.begin():
                    return await work(connection)
            finally:
                # Also where the time is over: a connection that is not given back is lost to the pool.
                await asyncio.shield(connection.close())

        return await self.retry(attempt)

    async def read_in_snapshot(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work`, which only reads: all its statements see the database as of one moment.

        For reads that join facts of several statements; under READ COMMITTED each would see its own moment.

        Raises: as `run_in_transaction`.
        """

        async def in_snapshot(connection: AsyncConnection) -> T:
            await connection.exec_driver_sql(SNAPSHOT)
            return await work(connection)

        return await self.run_in_transaction(in_snapshot)

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt`, which is one whole transaction, until it ends; bounded, with growing, jittered waits.

        Raises: as `run_in_transaction`.
        """

        async def bounded() -> T:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self.settings.transaction_timeout_seconds) as limit:
                    with self.trust.watched(limit):
                        return await attempt()
            except Exception as error:
                self.trust.note_failure(error)
                raise
            finally:
                self._tries_seconds.observe(time.perf_counter() - started)

        last_start = time.monotonic() + self.settings.retry_for_seconds
        try:
            try:
                # Nearly all end here, without the cost of setting up the retries.
                return await bounded()
            except Exception as error:
                if self.settings.tries == 1 or not is_worth_retrying(error) or time.monotonic() >= last_start:
                    raise
                self._note_retry(1, error)
            return await self._retrying(last_start)(bounded)
        except Exception as error:
            fault = fault_of(error, self.settings.tries)
            if fault is None:
                raise
            raise fault from error

    def _retrying(self, last_start: float) -> tenacity.AsyncRetrying:
        """The tries after the first one, none of which begins after `last_start` (monotonic time)."""

        def is_over(state: tenacity.RetryCallState) -> bool:
            too_late = time.monotonic() + state.upcoming_sleep >= last_start
            # The first try was made before tenacity began to count.
            return too_late or state.attempt_number + 1 >= self.settings.tries

        return tenacity.AsyncRetrying(
            stop=is_over,
            wait=tenacity.wait_random_exponential(multiplier=0.005, max=self.settings.retry_wait_max_seconds),
            retry=tenacity.retry_if_exception(is_worth_retrying),
            before_sleep=lambda state: self._note_retry(
                state.attempt_number + 1, state.outcome.exception() if state.outcome else None
            ),
            reraise=True,
        )

    def _note_retry(self, attempt: int, error: BaseException | None) -> None:
        self._retries.add(cause_of(error))
        log.info("transaction_retry", attempt=attempt, error=repr(error))

    async def ping(self) -> None:
        """Ask, on a connection apart from the pool, whether the database takes writes. Raises: DatabaseAway."""
        await self._pulse.check()

    async def watch(self) -> None:
        """Look from time to time where new connections lead and whether writes are taken; runs until cancelled.

        The connections follow: a name or proxy that leads to another server, and a server that became read-only.
        """
        was_there = True
        while self.settings.follow_seconds:
            await asyncio.sleep(self.settings.follow_seconds)
            try:
                await self.ping()
                was_there = True
            except DatabaseAway as away:
                if was_there:
                    log.warning("database_away", error=str(away), cause=repr(away.__cause__))
                was_there = False
            await self._pulse.look()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Close the connections."""
        await self._pulse.close()
        await self.engine.dispose()


__all__ = [
    "DUPLICATE_KEY",
    "SERVER_LOST",
    "SNAPSHOT",
    "Database",
    "DatabaseAway",
    "DatabaseFault",
    "DatabaseSettings",
    "DriverSession",
    "Fault",
    "LockRetriesSpent",
    "RaceLost",
    "error_number",
    "is_connection_failure",
    "is_worth_retrying",
    "service_database_url",
]
