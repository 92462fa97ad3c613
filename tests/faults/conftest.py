"""What the tests on a cluster ask for."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio

from service_kit.database import migrating
from service_kit.database.database import Database, DatabaseSettings, DriverSession
from service_kit.database.migrating import Service
from tests.kits.galera import GaleraCluster
from tests.kits.mysql_group import MysqlGroup
from tests.kits.warehouse_kit import fresh

MakeUrls = Callable[[Service], list[str]]
OpenDatabase = Callable[[str], Database]
OpenSession = Callable[[str], DriverSession]
PATIENT = DatabaseSettings(tries=50, retry_for_seconds=60)


@pytest.fixture(scope="session")
def cluster(cluster_hands: Executor) -> Iterator[GaleraCluster]:
    """Three nodes, shared by all tests."""
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder, GaleraCluster(Path(folder)) as made:
        yield made
        made.stop()  # before the thread ends, and the nodes with it


@pytest.fixture(scope="session")
def cluster_hands() -> Iterator[Executor]:
    """A thread to start nodes from, because they end with the thread that started them."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


@pytest.fixture(scope="session")
def group() -> Iterator[MysqlGroup]:
    """A MySQL group, shared by all tests."""
    with tempfile.TemporaryDirectory(prefix="stock-test-") as folder, MysqlGroup(Path(folder)) as made:
        yield made


@pytest.fixture
def make_urls(cluster: GaleraCluster) -> MakeUrls:
    """Makes a migrated database; its URLs, one per node."""

    def make(service: Service) -> list[str]:
        cluster.wait_until_whole()
        urls = cluster.urls(fresh(service).replace("-", "_"))
        migrating.upgrade(urls[0], service)
        return urls

    return make


@pytest_asyncio.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """Opens databases that are patient with conflicts; closes them after the test."""
    made: list[Database] = []

    def open_one(url: str) -> Database:
        made.append(Database(url, PATIENT))
        return made[-1]

    yield open_one
    for database in made:
        await database.close()


@pytest_asyncio.fixture
async def open_session(open_database: OpenDatabase) -> AsyncIterator[OpenSession]:
    """Opens sessions; closes them after the test."""
    made: list[DriverSession] = []

    def open_one(url: str) -> DriverSession:
        made.append(open_database(url).session())
        return made[-1]

    yield open_one
    for session in made:
        await session.close()
