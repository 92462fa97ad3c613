"""The one door to MySQL: engine, transactions, and which failures are worth another try.

A transaction is retried as a whole, here and nowhere else, and only for failures that say by their
number that nothing was kept (deadlock, lock wait) or that the connection is gone. A function that
runs inside must therefore have no effect outside its transaction, and must find out by itself (by a
request id) whether an earlier try of it was committed after all.

    Fault
    +-- DatabaseFault
        +-- LockRetriesSpent     every try met a deadlock or a lock wait
        +-- DatabaseAway         the server can't be reached, or hung up every time
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pymysql
import sqlalchemy
import structlog
import tenacity
from pydantic import BaseModel, Field
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from service_kit import database_login
from service_kit.database_flavour import SHOW_VARIABLES, causal_reads, is_mariadb
from service_kit.database_url import DatabaseAddress, encrypt_connections, read_database_url
from service_kit.metrics import Gauge, Histogram, Measure, Tally

log = structlog.get_logger(__name__)
T = TypeVar("T")

# https://mariadb.com/kb/en/mariadb-error-code-reference/ and MySQL's own reference agree on these.
LOCK_ERRORS = frozenset({1180, 1205, 1213, 3101, 3572})
"""COMMIT failed, lock wait timeout, deadlock (Galera: also a lost certification at COMMIT), the same on MySQL group
replication, NOWAIT on MySQL."""
CONNECTION_ERRORS = frozenset(
    {1040, 1047, 1053, 1129, 1152, 1158, 1159, 1160, 1161, 1203, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
)
"""Too many connections, no quorum, shutdown, hung up, killed, timed out: the server is away, not the data wrong."""
SERVER_LOST = 2013
DUPLICATE_KEY = 1062

SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES"
"""Without backslash escapes the driver escapes a value by doubling its quotes, sixty times as fast for the JSON
documents of a batch. It then must not be given `bytes`: it would still escape those with backslashes."""
AGGREGATE_SIZE_MAX_BYTES = 16 * 1024 * 1024
"""The longest value that one aggregation may make."""


class Fault(Exception):
    """Something outside this program does not work; the cause is chained."""


class DatabaseFault(Fault):
    """The database could not do its part; nothing is known to have been kept."""


class LockRetriesSpent(DatabaseFault):
    """The transaction met a deadlock or a lock wait on every try."""


class DatabaseAway(DatabaseFault):
    """The database can't be reached, or the connection broke on every try."""


class RaceLost(Exception):
    """Raised inside a transaction that must start over because another one was first (a duplicate key, say)."""


class DatabaseSettings(BaseModel, extra="forbid"):
    """Bounds of the database door."""

    pool_size: int = Field(8, ge=1, le=200, description="connections kept open per process")
    connect_timeout_seconds: float = Field(5, gt=0, le=60)
    lock_wait_timeout_seconds: int = Field(1, ge=1, le=60, description="innodb_lock_wait_timeout")
    lock_patience_seconds: float = Field(
        0.3, ge=0.001, le=60, description="a batch waits so long for locked rows, then goes on with those that are free"
    )
    locked_look_seconds: float = Field(
        0.1, ge=0.001, le=10, description="how often rows that were found locked are looked at again"
    )
    locked_rows_max: int = Field(10_000, ge=1, le=1_000_000, description="locked rows that are remembered")
    tries: int = Field(8, ge=1, le=50, description="how often one transaction is tried")
    retry_wait_max_seconds: float = Field(0.25, gt=0, le=10, description="longest wait between two tries")
    retry_for_seconds: float = Field(8, gt=0, le=300, description="no new try this long after the first one began")
    transaction_timeout_seconds: float = Field(
        10, gt=0, le=300, description="a try that takes longer is given up, for good if retry_for_seconds are over then"
    )

    def too_few_connections(self, setting: str, pinned: int) -> list[str]:
        """Why `pool_size` does not do for a process that keeps `pinned` connections for good; [] if it does."""
        enough = f"a process keeps {pinned} of them for good, and the rest of it needs one; take {pinned + 1} or more"
        return [] if self.pool_size > pinned else [f"{setting}: {self.pool_size} connections are too few: {enough}"]


def service_database_url(url: str, name: str) -> str:
    """The URL of a service's own database on the server `url`.

    `mysql://user@host:3306` gives the database `name`; `mysql://user@host:3306/shop` gives `shop_<name>`,
    so that several installations can share a server.

    Raises: BadDatabaseUrl.
    """
    read_database_url(url, needs_database=False)
    parsed = make_url(url)
    return parsed.set(database=f"{parsed.database}_{name}" if parsed.database else name).render_as_string(False)


def error_number(error: BaseException) -> int | None:
    """The server's or driver's error number, whoever wrapped it; None if it has none."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error_number(error.orig)
    if isinstance(error, pymysql.err.MySQLError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return None


def is_connection_failure(error: BaseException) -> bool:
    """Whether the server was away or hung up: what became of a COMMIT under way is then unknown."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_connection_failure(error.orig))
    if isinstance(error, OSError | EOFError | TimeoutError | pymysql.err.InterfaceError):
        return True
    return error_number(error) in CONNECTION_ERRORS


def is_worth_retrying(error: BaseException) -> bool:
    """Whether a new try of the whole transaction may succeed where this one failed."""
    return isinstance(error, RaceLost) or error_number(error) in LOCK_ERRORS or is_connection_failure(error)


class Database:
    """An engine and the only ways to use it.

    Args:
        url: `mysql://user:password@host:port/database`; `?tls=on` insists on an encrypted connection, and so does
            `?tls_ca=FILE`, for a CA that the system does not know.
        settings: the bounds.

    Raises: BadDatabaseUrl.
    """

    def __init__(self, url: str, settings: DatabaseSettings | None = None) -> None:
        self.settings = settings or DatabaseSettings()
        self.address = read_database_url(url)
        self.engine: AsyncEngine = _create_engine(self.address, self.settings)
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

    async def run_in_transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a READ COMMITTED transaction, commit, and return its result.

        `work` is called again, in a new transaction, after a lock error or a lost connection.

        Raises:
            LockRetriesSpent, DatabaseAway: when the tries are used up.
            Exception: whatever else `work` or the server raised; nothing was kept then.
        """

        async def attempt() -> T:
            async with self.engine.connect() as connection, connection.begin():
                return await work(connection)

        return await self.retry(attempt)

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt`, which is one whole transaction, until it ends; bounded, with growing, jittered waits.

        Raises: as `run_in_transaction`.
        """

        async def bounded() -> T:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self.settings.transaction_timeout_seconds):
                    return await attempt()
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
            if is_connection_failure(error):
                raise DatabaseAway("the database can't be reached") from error
            if is_worth_retrying(error):
                raise LockRetriesSpent(f"no luck in {self.settings.tries} tries") from error
            raise

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
        self._retries.add(_cause(error))
        log.info("transaction_retry", attempt=attempt, error=repr(error))

    async def ping(self) -> None:
        """Ask the server for a sign of life. Raises: DatabaseAway."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds), self.engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except Exception as error:
            raise DatabaseAway("the database does not answer") from error

    async def close(self) -> None:
        """Hang up."""
        await self.engine.dispose()


class DriverSession:
    """A connection of the engine's pool, held for long, for commands of several statements in one round trip.

    SQLAlchemy has no notion of those, so the statements go to the driver, which still escapes every value.
    Not safe for concurrent use: one transaction at a time.
    """

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    async def is_mariadb(self) -> bool:
        """Whether this session's server is a MariaDB; connects if need be."""
        if self._driver is None:
            await self._connect()
        return bool(self._connection is not None and self._connection.info["is_mariadb"])

    async def execute(self, statements: str, values: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
        """Send `statements` (separated by `;`) at once; return the rows of each in turn, [] where it has none.

        The server stops at the first statement that fails; that error is raised and the transaction is still open.
        """
        if self._driver is None:
            await self._connect()
        results: list[list[tuple[Any, ...]]] = []
        cursor = await self._driver.cursor()
        try:
            await cursor.execute(statements, values)
            results.append(await cursor.fetchall() if cursor.description else [])
            while await cursor.nextset():
                results.append(await cursor.fetchall() if cursor.description else [])
        finally:
            await cursor.close()
        return results

    async def rollback(self) -> None:
        """Leave the failed transaction; hang up if even that can't be done."""
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
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _connect(self) -> None:
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        self._connection, self._driver = connection, raw.driver_connection
        # A lone SELECT must not leave a transaction open: it would hold the tables' metadata locks.
        await self._driver.autocommit(True)


def _create_engine(address: DatabaseAddress, settings: DatabaseSettings) -> AsyncEngine:
    connect_args: dict[str, Any] = {
        "async_creator_fn": database_login.connect,
        "connect_timeout": settings.connect_timeout_seconds,
        "init_command": (
            f"SET time_zone = '+00:00', sql_mode = '{SQL_MODE}', "
            f"innodb_lock_wait_timeout = {settings.lock_wait_timeout_seconds}, "
            # Where MariaDB, silently, cuts what JSON_ARRAYAGG makes.
            f"group_concat_max_len = {AGGREGATE_SIZE_MAX_BYTES}"
        ),
    }
    engine = create_async_engine(
        address.url.set(drivername="mysql+aiomysql", query={"charset": "utf8mb4"}),
        connect_args=connect_args,
        isolation_level="READ COMMITTED",
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_recycle=1800,
        pool_use_lifo=True,
    )
    if address.tls:
        # Before the listener that connects: the first one that does is the last one that is asked.
        sqlalchemy.event.listen(engine.sync_engine, "do_connect", encrypt_connections(address))
    sqlalchemy.event.listen(engine.sync_engine, "do_connect", _connect)
    sqlalchemy.event.listen(engine.sync_engine, "connect", _learn_flavour)
    return engine


def _connect(dialect: sqlalchemy.Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """A server that dies while it is connected to is a server that hung up; aiomysql takes it for a bug."""
    try:
        return dialect.connect(*arguments, **options)
    except RuntimeError as error:
        raise pymysql.err.OperationalError(SERVER_LOST, "the server hung up at once") from error


def _learn_flavour(connection: Any, record: Any) -> None:
    """Note what the server is; see to it that reads on a cluster are never out of date."""
    cursor = connection.cursor()
    cursor.execute(SHOW_VARIABLES)
    variables = dict(cursor.fetchall())
    if statement := causal_reads(variables):
        cursor.execute(statement)
    cursor.close()
    record.info["is_mariadb"] = is_mariadb(variables)


def _cause(error: BaseException | None) -> str:
    """Why a transaction is tried again, in one of a few words: an error number of the server, race or connection."""
    number = error_number(error) if error is not None else None
    if number is not None:
        return str(number)
    return "race" if isinstance(error, RaceLost) else "connection"
