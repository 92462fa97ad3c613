"""What every test may ask for: a real database server, databases on it, real processes, free ports.

TEST_DATABASE=mariadb|mysql chooses the private server; TEST_DATABASE_URL=mysql://user:password@host:port uses
one that runs already (its user must be allowed to make databases).
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from development.local_server import LocalServer, LocalServerSettings
from development.server_programs import Flavour
from service_kit.database import migrating
from service_kit.database.migrating import Service
from tests.kits.processes import Processes
from tests.kits.secrets_used import note_settings
from tests.kits.small_server import copy_template, make_template, small_server
from tests.kits.warehouse_kit import connection, sql

MakeDatabase = Callable[[Service], str]
SERVER_SETTINGS = LocalServerSettings(buffer_pool_mib=256, redo_log_mib=128)
_PROCESSES = pytest.StashKey[Processes]()
_KEPT_TABLES = frozenset({"alembic_version", "migration_lock"})


pytest_plugins = ["tests.kits.secrets_watch", "tests.kits.where_time_goes"]


def pytest_configure(config: pytest.Config) -> None:
    """Everything here is on this machine: no proxy, unless a test sets one; and it may be slow, which is no fault.

    Some hundred processes are started, and what they compile is kept for a run; where PYTHONDONTWRITEBYTECODE is set,
    each would compile everything again.
    """
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        compiled = tempfile.TemporaryDirectory(prefix="stock-test-compiled-", ignore_cleanup_errors=True)
        os.environ["PYTHONPYCACHEPREFIX"] = compiled.name
        config.add_cleanup(compiled.cleanup)
    settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def database_flavour() -> Flavour:
    """Which kind of server the tests run on."""
    flavour = os.environ.get("TEST_DATABASE", "mariadb")
    if flavour in get_args(Flavour):
        return cast("Flavour", flavour)
    raise pytest.UsageError(f"TEST_DATABASE is {flavour!r}: set it to mariadb or mysql")


@pytest.fixture(scope="session")
def database_template(database_flavour: Flavour, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stopped server without databases; see `copy_template`."""
    folder = tmp_path_factory.mktemp("template") / "database"
    make_template(folder, database_flavour)
    return folder


@pytest.fixture(scope="session")
def database_server(database_flavour: Flavour, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database server, without a database."""
    if existing := os.environ.get("TEST_DATABASE_URL"):
        note_settings({"DATABASE_URL": existing})
        yield existing
        return
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder:
        # Not asked for where a server runs already.
        copy_template(request.getfixturevalue("database_template"), Path(folder))
        server = LocalServer(Path(folder), database_flavour, settings=SERVER_SETTINGS)
        with server:
            note_settings({"DATABASE_URL": server.url})
            yield server.url


@pytest.fixture(scope="module")
def own_server(database_template: Path) -> Iterator[LocalServer]:
    """A small database server that may be killed."""
    with small_server(database_template) as server:
        yield server


@pytest.fixture(scope="session")
def make_database(database_server: str) -> Iterator[MakeDatabase]:
    """Makes a database of one's own, migrated, for as long as the session; gives its URL."""
    made: list[str] = []

    def make(service: Service) -> str:
        url = make_url(database_server).set(database=f"test_{service}_{uuid.uuid4().hex[:8]}")
        text = url.render_as_string(hide_password=False)
        migrating.upgrade(text, service)
        made.append(text)
        return text

    yield make
    for url in made:
        sql(url, f"DROP DATABASE {make_url(url).database}")


@pytest.fixture(scope="session")
def _shared_databases(make_database: MakeDatabase) -> Callable[[Service], str]:
    urls: dict[Service, str] = {}

    def get(service: Service) -> str:
        if service in urls:
            _empty(urls[service])
        else:
            urls[service] = make_database(service)
        return urls[service]

    return get


@pytest.fixture
def warehouse_database_url(_shared_databases: Callable[[Service], str]) -> str:
    """A migrated warehouse database, empty at the start of each test."""
    return _shared_databases("warehouse")


@pytest.fixture
def orders_database_url(_shared_databases: Callable[[Service], str]) -> str:
    """A migrated orders database, empty at the start of each test."""
    return _shared_databases("orders")


@pytest.fixture
def processes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Starts services as real processes; stops them after the test, and shows their logs if it failed."""
    started = Processes(tmp_path)
    request.node.stash[_PROCESSES] = started
    yield started
    started.stop_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Add the logs of the processes to the report of a failed test."""
    report = yield
    started = item.stash.get(_PROCESSES, None)
    if started is not None and report.failed:
        report.sections.extend((f"log of {name}", text) for name, text in started.logs().items())
    return report


def _empty(url: str) -> None:
    """Empty all tables that have rows; counters start again at 1."""
    with connection(url) as made, made.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        tables = [row[0] for row in cursor.fetchall() if row[0] not in _KEPT_TABLES]
        cursor.execute("SET foreign_key_checks = 0")
        for table in tables:
            cursor.execute(f"SELECT 1 FROM `{table}` LIMIT 1")
            if cursor.fetchall():
                cursor.execute(f"TRUNCATE TABLE `{table}`")
