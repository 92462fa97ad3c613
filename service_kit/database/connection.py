"""One connection to the server: made, set up, checked, and aware of having died.

The driver is aiomysql. What it leaves open, and what is done here instead:

- A text becomes a literal that means the same in every sql_mode and client character set (`literal`). The driver would
  choose by a status flag that comes with the server's answers, and that a proxy may drop.
- A connection that the other side has closed while it was idle is found out before anything is sent on it. uvloop
  raises a RuntimeError at that point, asyncio raises nothing, and SQLAlchemy knows neither for a lost connection.
- The login, which gives a password to whoever asks for it: see `database_login`.
- Whatever goes wrong while connecting is a ConnectFailed.
"""

import asyncio
import random
import socket
import time
from typing import Any

import aiomysql
import structlog

from service_kit.database.errors import (
    CONNECTION_FAILED,
    SERVER_GONE,
    SERVER_LOST,
    ConnectFailed,
    error_number,
)
from service_kit.database.flavour import VARIABLES, causal_reads, is_mariadb
from service_kit.database.login import SafeAsyncConnection
from service_kit.database.settings import DatabaseSettings

log = structlog.get_logger(__name__)

# --- The set-up of a session: what every connection is told, and what it is checked for.

SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES"
AGGREGATE_SIZE_MAX_BYTES = 16 * 1024 * 1024
"""The longest value that one aggregation may make; MariaDB, silently, cuts what JSON_ARRAYAGG makes there."""


def session_set_up(settings: DatabaseSettings) -> str:
    """The statements that every connection begins with."""
    return (
        "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci;"
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;"
        f"SET time_zone = '+00:00', sql_mode = '{SQL_MODE}', autocommit = 0, "
        f"innodb_lock_wait_timeout = {settings.lock_wait_timeout_seconds}, "
        f"group_concat_max_len = {AGGREGATE_SIZE_MAX_BYTES}"
    )


def expected_variables(settings: DatabaseSettings) -> dict[str, str]:
    """What the session variables must be then; the first and the last two have one name on each server."""
    return {
        "transaction_isolation": "READ-COMMITTED",
        "tx_isolation": "READ-COMMITTED",
        "time_zone": "+00:00",
        "sql_mode": SQL_MODE,
        "autocommit": "OFF",
        "innodb_lock_wait_timeout": str(settings.lock_wait_timeout_seconds),
        "group_concat_max_len": str(AGGREGATE_SIZE_MAX_BYTES),
        "character_set_client": "utf8mb4",
        "character_set_connection": "utf8mb4",
        "character_set_results": "utf8mb4",
    }


_EITHER = ("transaction_isolation", "tx_isolation")
_SIZES = "SELECT LENGTH('\\\\'), LENGTH('\u20ac\U0001f600'), CHAR_LENGTH('\u20ac\U0001f600')"
"""Two backslashes are two characters where NO_BACKSLASH_ESCAPES is in force, and characters are what was meant."""
_SIZES_EXPECTED = (2, 7, 2)
_WHO = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@server_id, @@datadir)"


def literal(text: str) -> str:
    """A text as SQL that means the same whatever the server's sql_mode, and whatever the connection knows of it.

    Between quotes only what contains nothing that any mode treats specially; everything else in hexadecimal.
    """
    if "'" in text or "\\" in text or "\0" in text:
        return f"_utf8mb4 X'{text.encode().hex()}'"
    return f"'{text}'"


class Connection(SafeAsyncConnection):
    """A connection of the driver.

    Attributes:
        server: which server this leads to: two connections with the same one lead to the same.
        is_mariadb: whether that is a MariaDB.
        is_on_cluster: whether its transactions wait, as they begin, for what other nodes have committed.
        made_at, heard_at: monotonic time when it was made, and when the server was last known to answer on it.
        expires_at: monotonic time after which it is to be replaced.
    """

    server = ""
    is_mariadb = False
    is_on_cluster = False

    def __init__(self, settings: DatabaseSettings, **options: Any) -> None:
        # What the driver would do about autocommit depends on a status flag; the set-up does it.
        super().__init__(**{**options, "autocommit": None})
        self._settings = settings
        self.made_at = self.heard_at = time.monotonic()
        age = settings.connection_age_max_seconds * random.uniform(0.75, 1)  # noqa: S311 - so that not all go at once
        self.expires_at = self.made_at + age

    def escape(self, obj: object) -> str:
        """A value as SQL. Raises: TypeError, for what would have to be put between quotes with escapes."""
        if isinstance(obj, str):
            return literal(obj)
        if type(obj) is int:  # nearly all others
            return str(obj)
        if isinstance(obj, bytes | bytearray):
            return f"X'{obj.hex()}'"
        if isinstance(obj, dict | list | tuple | set | frozenset):
            raise TypeError(f"a {type(obj).__name__} is not one value")
        return str(super().escape(obj))

    async def set_up(self) -> None:
        """Tell the server how this session is to be, and make sure that it is. Raises: ConnectFailed."""
        expected = expected_variables(self._settings)
        names = ", ".join(f"'{name}'" for name in (*expected, *VARIABLES))
        show = f"SHOW SESSION VARIABLES WHERE Variable_name IN ({names})"
        results = await self.run(";".join((session_set_up(self._settings), show, _SIZES, _WHO)))
        *_, variables, [sizes], [(server,)] = results
        found = dict(variables)
        problems = _differences(expected, found)
        if tuple(sizes) != _SIZES_EXPECTED:
            problems.append(f"the lengths of '\\\\' and of characters are {tuple(sizes)}, not {_SIZES_EXPECTED}")
        if problems:
            what = "the database, or a proxy before it, does not take the settings of a session"
            raise ConnectFailed(CONNECTION_FAILED, f"{what}: {'; '.join(problems)}")
        self.server, self.is_mariadb = str(server), is_mariadb(found)
        if statement := causal_reads(found):
            self.is_on_cluster = True
            await self.run(f"{statement};SELECT 1")  # which fails where the node is not up to date

    async def run(self, statements: str, values: dict[str, Any] | None = None) -> list[list[tuple[Any, ...]]]:
        """Send `statements` (separated by `;`) at once; return the rows of each in turn, [] where it has none."""
        results: list[list[tuple[Any, ...]]] = []
        cursor = await self.cursor()
        try:
            await cursor.execute(statements, values)
            results.append(await cursor.fetchall() if cursor.description else [])
            while await cursor.nextset():
                results.append(await cursor.fetchall() if cursor.description else [])
        finally:
            await cursor.close()
        self.heard_at = time.monotonic()
        return results

    async def answers(self) -> bool:
        """Whether the server answers on this connection, within the time for that."""
        try:
            async with asyncio.timeout(self._settings.test_timeout_seconds):
                await self.ping(reconnect=False)
        except Exception as error:
            log.info(
                "database_connection_dead", idle_seconds=round(time.monotonic() - self.heard_at, 1), error=repr(error)
            )
            return False
        return True

    async def ensure_closed(self) -> None:
        """Say goodbye if the other side still listens, and close the connection."""
        writer = self._writer
        if writer is None:
            return
        try:
            if not self.is_hung_up():
                await super().ensure_closed()
                async with asyncio.timeout(self._settings.test_timeout_seconds):
                    await writer.wait_closed()
        except (OSError, RuntimeError) as error:
            log.debug("database_goodbye_failed", error=repr(error))
        finally:
            self.close()
            writer.transport.abort()

    def _ensure_alive(self) -> None:
        super()._ensure_alive()
        if self.is_hung_up():
            self.close()
            raise aiomysql.OperationalError(SERVER_GONE, "the server has hung up")

    def is_hung_up(self) -> bool:
        """Whether either side has closed it: the other one's end, or its reset, has come in."""
        return self._writer is None or bool(
            self._writer.transport.is_closing() or self._reader.eof_received or self._reader.exception() is not None
        )

    def _write_bytes(self, data: bytes) -> None:
        # The transport may close between two packets of one command.
        if self._writer is None or self._writer.transport.is_closing():
            self.close()
            raise aiomysql.OperationalError(SERVER_LOST, "the server hung up")
        self._writer.write(data)

    async def _read_ok_packet(self) -> bool:
        read = await super()._read_ok_packet()
        self.heard_at = time.monotonic()
        return bool(read)

    def _set_keep_alive(self) -> None:
        super()._set_keep_alive()
        raw = self._writer.transport.get_extra_info("socket")
        for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5)):
            if hasattr(socket, name):
                raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            unacknowledged = round(self._settings.unacknowledged_seconds * 1000)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacknowledged)


async def connect(settings: DatabaseSettings, **options: Any) -> Connection:
    """A new connection, set up.

    Args:
        options: what aiomysql.connect takes.

    Raises: ConnectFailed, whatever goes wrong.
    """
    connection = Connection(settings, **options)
    try:
        async with asyncio.timeout(settings.connect_timeout_seconds):
            await connection._connect()
            await connection.set_up()
    except BaseException as error:
        connection.close()
        if isinstance(error, ConnectFailed) or not isinstance(error, Exception):
            raise
        # uvloop's transport of a connection that is closed already has no socket: a RuntimeError of the driver.
        number = error_number(error) or (SERVER_LOST if isinstance(error, RuntimeError) else CONNECTION_FAILED)
        text = str(error.args[1]) if error_number(error) is not None and len(error.args) > 1 else repr(error)
        raise ConnectFailed(number, text) from error
    return connection


def _differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is not as it must be, in words."""
    problems = []
    for name, wanted in expected.items():
        if name in _EITHER and name not in found and any(other in found for other in _EITHER):
            continue
        value = found.get(name, "unknown")
        same = set(value.split(",")) == set(wanted.split(",")) if name == "sql_mode" else value == wanted
        if not same:
            problems.append(f"{name} is {value!r}, not {wanted!r}")
    return problems
