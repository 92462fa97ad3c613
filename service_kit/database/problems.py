"""Why a database can't be used, in a line for whoever runs the service: what, which setting, what to do."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pymysql
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import Database, Fault, error_number, is_connection_failure
from service_kit.database.login import LOGIN_UNSAFE
from service_kit.database.schema import is_behind
from service_kit.database_url import BadDatabaseUrl, DatabaseAddress, name_of_setting, read_database_url
from service_kit.starting import IS_INSTALLED, NotStarted

log = structlog.get_logger(__name__)
_LOGIN_REFUSED = frozenset({1045, 1251, 1275, 1698, 2049, 2059})
_RIGHT_MISSING = frozenset({1044, 1142, 1143, 1227, 1370, 1410})
_NO_SCHEMA = frozenset({1049, 1054, 1146})
_TLS_REFUSED = frozenset({2026, 3159})
_FINAL = _LOGIN_REFUSED | _RIGHT_MISSING | _NO_SCHEMA | _TLS_REFUSED | {LOGIN_UNSAFE}
"""What does not pass by waiting: somebody must change something."""


class Service(NamedTuple):
    """What a service calls itself, and what it needs in its database.

    Attributes:
        module: of `python -m`.
        migrations: the folder of its migrations; also what `stockwarden` calls it.
        prefix: of its environment variables.
        needs: statements that change nothing, and are refused where a right is missing.
    """

    module: str
    migrations: str
    prefix: str
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """How people call it: in a checkout by its module, otherwise by the command that was installed."""
        return f"stockwarden {self.migrations}" if IS_INSTALLED else f"python -m {self.module}"


async def check_database(database: Database, service: Service, *, must_answer: bool) -> None:
    """Look whether a service can work with its database.

    Args:
        must_answer: it is asked again for a while if it is away now; otherwise that is only logged.

    Raises:
        NotStarted: it refuses the login, the encryption or a right, or is not at the schema that the code needs, or
            it is away and must answer.
    """

    async def look() -> None:
        try:
            async with database.engine.connect() as connection:
                await _look(connection, database.address, service)
        except Exception as error:
            if _number(error) in _FINAL or _tls_error(error) is not None:
                raise database_problem(error, database.address, service) from error
            raise

    try:
        if must_answer:
            await database.retry(look)
        else:
            async with asyncio.timeout(database.settings.connect_timeout_seconds):
                await look()
    except NotStarted:
        raise
    except Exception as error:
        problem = database_problem(error, database.address, service)
        if must_answer:
            raise problem from error
        log.warning("database_away", problem=str(problem), action="asking on until it is there")


async def _look(connection: AsyncConnection, address: DatabaseAddress, service: Service) -> None:
    found = await connection.exec_driver_sql("SELECT version_num FROM alembic_version")
    if is_behind(str(found.scalar() or ""), service.migrations):
        raise NotStarted(
            f"{name_of_setting(service.prefix)}: the tables in the database {address.url.database} "
            f"at {address.host_and_port} are older than this program: run `{service.command} migrate`"
        )
    for statement in service.needs:
        await connection.exec_driver_sql(statement)
    await connection.rollback()


@contextmanager
def database_explained(url: str, service: Service) -> Iterator[None]:
    """Turn what a database refuses, or that it is away, into NotStarted."""
    try:
        yield
    except BadDatabaseUrl as error:
        raise NotStarted(f"{name_of_setting(service.prefix)}: {error}") from error
    except (Fault, SQLAlchemyError, pymysql.err.MySQLError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            raise
        raise database_problem(error, read_database_url(url), service) from error


def database_problem(error: BaseException, address: DatabaseAddress, service: Service) -> NotStarted:
    """What stands in the way, which setting it is about, and what to do."""
    number, said = _number(error), _said(error)
    setting, server, name = name_of_setting(service.prefix), address.host_and_port, address.url.database
    migrate = f"run `{service.command} migrate`"
    if (tls := _tls_error(error)) is not None:
        why = getattr(tls, "verify_message", "") or tls.reason or str(tls)
        text = (
            f"the TLS certificate of the database at {server} is not trusted ({why}); check tls_ca and the host's name"
        )
    elif number in _TLS_REFUSED:
        text = f"the database at {server} does not encrypt connections, and tls=on asks for it; turn TLS on there"
    elif number == LOGIN_UNSAFE:
        text = f"nothing was sent to {server}: {said}; turn TLS on there, and write tls=on or tls_ca=FILE in the URL"
    elif number in _LOGIN_REFUSED:
        text = f"the database at {server} refuses the login of {address.url.username!r}; check user and password"
    elif number in _RIGHT_MISSING:
        text = f"the user {address.url.username!r} lacks a right at {server} ({said}); grant it, or take another user"
    elif number in _NO_SCHEMA:
        text = f"the database {name} at {server} does not have the tables of this program ({said}); {migrate}"
    elif number is None or is_connection_failure(error) or (isinstance(error, Fault) and number not in _FINAL):
        detail = f" ({said})" if said else ""
        text = f"the database at {server} can't be reached{detail}; check host and port, and that it runs"
    else:
        text = f"the database at {server} refuses to work: {said}"
    return NotStarted(f"{setting}: {text}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it wraps, and what caused it."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.append(one)
        yield one
        waiting += [link for link in (getattr(one, "orig", None), one.__cause__, one.__context__) if link is not None]


def _number(error: BaseException) -> int | None:
    return next((number for one in _chain(error) if (number := error_number(one)) is not None), None)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    return next((one for one in _chain(error) if isinstance(one, ssl.SSLError)), None)


def _said(error: BaseException) -> str:
    """The server's own words, without the driver's around them."""
    for one in _chain(error):
        if isinstance(one, pymysql.err.MySQLError) and len(one.args) > 1:
            return str(one.args[1]).split(" (")[0]
    return ""
