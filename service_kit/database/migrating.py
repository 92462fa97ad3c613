"""Bringing a service's database to the schema that its code expects: Alembic, called from programs.

The migrations are hand-written DDL in `migrations/<service>/versions`. They run one at a time, however many programs
start at once: a row that stays locked while one of them runs makes the others wait; on a cluster, see
`migration_turn`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import alembic.command
import sqlalchemy
from alembic import context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection, Engine

from service_kit.database.database import error_number
from service_kit.database.login import SafeConnection
from service_kit.database.migration_turn import cluster_turn, see_what_others_did
from service_kit.database_url import DatabaseAddress, read_database_url

Service = Literal["warehouse", "orders"]

LOCK_WAIT_SECONDS = 600
"""How long a program waits while another one migrates the same database."""
CONNECT_TIMEOUT_SECONDS = 10
_MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
_UNKNOWN_DATABASE = 1049


def upgrade(url: str, service: Service, revision: str = "head") -> None:
    """Make the database of `url` if it is missing, and apply the service's migrations up to `revision`.

    Args:
        url: `mysql://user:password@host:port/database`, with `?tls=on` as for `service_kit.database.database.Database`.

    Raises:
        BadDatabaseUrl: what is wrong with it.
        sqlalchemy.exc.OperationalError: the server is away, or does not let this user do it.
        alembic.util.exc.CommandError: there is no such revision.
    """
    _create_database(url)
    with _migrating(url, service) as config:
        alembic.command.upgrade(config, revision)


def downgrade(url: str, service: Service, revision: str = "base") -> None:
    """Undo the service's migrations down to `revision`. Raises: as `upgrade`."""
    with _migrating(url, service) as config:
        alembic.command.downgrade(config, revision)


def current_revision(url: str) -> str | None:
    """The revision that the database of `url` is at; None before the first. Raises: as `upgrade`."""
    engine = _create_engine(read_database_url(url))
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def run_environment() -> None:
    """What every `env.py` does: run the migrations on the connection that was put into the configuration."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


@contextmanager
def _migrating(url: str, service: Service) -> Iterator[Config]:
    engine = _create_engine(read_database_url(url))
    try:
        with engine.connect() as connection, _turn(engine, connection):
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS / service).replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            yield config
            connection.commit()
    finally:
        engine.dispose()


@contextmanager
def _turn(engine: Engine, connection: Connection) -> Iterator[None]:
    if see_what_others_did(connection):
        with cluster_turn(engine, LOCK_WAIT_SECONDS):
            yield
        return
    with engine.connect() as guard:
        _wait_for_turn(guard)
        yield
        guard.rollback()


def _wait_for_turn(guard: Connection) -> None:
    """Lock the one row of `migration_lock` on this connection until its transaction ends."""
    guard.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS migration_lock (id INT PRIMARY KEY) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
    )
    guard.exec_driver_sql("INSERT IGNORE INTO migration_lock (id) VALUES (1)")
    guard.commit()
    guard.exec_driver_sql(f"SET innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
    guard.exec_driver_sql("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")


def _create_database(url: str) -> None:
    address = read_database_url(url)
    engine = _create_engine(address)
    try:
        with engine.connect():
            return
    except sqlalchemy.exc.OperationalError as error:
        if error_number(error) != _UNKNOWN_DATABASE:
            raise
    finally:
        engine.dispose()
    engine = _create_engine(replace(address, url=address.url.set(database="")))
    name = engine.dialect.identifier_preparer.quote_identifier(address.url.database or "")
    try:
        with engine.connect() as connection:
            # Binary collation: the ids that callers choose are opaque, "A1" and "a1" are two.
            connection.exec_driver_sql(
                f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
    finally:
        engine.dispose()


def _create_engine(address: DatabaseAddress) -> Engine:
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    if address.tls:
        arguments["ssl"] = address.tls_context()
    engine = sqlalchemy.create_engine(
        address.url.set(drivername="mysql+pymysql", query={"charset": "utf8mb4"}),
        connect_args=arguments,
        poolclass=sqlalchemy.pool.NullPool,
        isolation_level="READ COMMITTED",
    )
    sqlalchemy.event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> SafeConnection:
    return SafeConnection(**options)
