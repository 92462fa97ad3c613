"""Every way in which a connection dies between two uses ends in a silent reconnect, on both event loops."""

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy.engine import make_url

from development.local_server import LocalServer, LocalServerSettings
from development.server_programs import Flavour
from service_kit.database.database import Database, DatabaseSettings, DriverSession
from tests.kits.database_proxy import DatabaseProxy, proxied
from tests.kits.waiting import until
from tests.kits.warehouse_kit import scalar, sql

pytestmark = pytest.mark.sql
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
SETTINGS = DatabaseSettings(pool_size=3, idle_test_seconds=0.3, test_timeout_seconds=0.5, follow_seconds=0)
ON_ITS_WAY_SECONDS = 0.1
"""For the end of a connection to come in: they die between two uses here, not at one."""


class World:
    """A database with two pinned sessions and a pooled connection, all of them in use a moment ago."""

    def __init__(self, url: str, settings: DatabaseSettings = SETTINGS) -> None:
        self.database = Database(url, settings)
        self.sessions = [self.database.session() for _ in range(2)]
        self.retries: list[BaseException | None] = []
        note = self.database._note_retry

        def noted(attempt: int, error: BaseException | None) -> None:
            self.retries.append(error)
            note(attempt, error)

        self.database._note_retry = noted  # type: ignore[method-assign]

    async def use(self) -> set[int]:
        """A transaction on each; the ids of their connections."""
        ids = {await self._write(session) for session in self.sessions}
        await self.database.ping()

        async def work(connection: Any) -> int:
            return int((await connection.exec_driver_sql("SELECT CONNECTION_ID()")).scalar_one())

        return ids | {await self.database.run_in_transaction(work)}

    async def _write(self, session: DriverSession) -> int:
        async def attempt() -> int:
            try:
                *_, [(number,)] = await session.execute("START TRANSACTION;SELECT CONNECTION_ID()", {})
                await session.execute("SELECT 1;COMMIT", {})
            except BaseException:
                await session.rollback()
                raise
            return int(number)

        return await self.database.retry(attempt)

    async def close(self) -> None:
        for session in self.sessions:
            await session.close()
        await self.database.close()


@contextlib.asynccontextmanager
async def used(url: str) -> AsyncIterator[tuple[World, set[int]]]:
    world = World(url)
    try:
        yield world, await world.use()
    finally:
        await world.close()


def _connections(url: str) -> int:
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s AND id <> CONNECTION_ID()"
    return int(scalar(url, query, make_url(url).username))


async def _wait_timeout(url: str) -> None:
    sql(url, "SET GLOBAL wait_timeout = 1")
    try:
        async with used(url) as (world, ids):
            await until(lambda: _connections(url) == 0)
            sql(url, "SET GLOBAL wait_timeout = 28800")
            await asyncio.sleep(ON_ITS_WAY_SECONDS)
            assert not ids & await world.use()
            _assert_silent(world)
    finally:
        sql(url, "SET GLOBAL wait_timeout = 28800")


async def _killed(url: str) -> None:
    async with used(url) as (world, ids):
        for (number,) in sql(
            url, "SELECT id FROM information_schema.processlist WHERE user = %s AND id <> CONNECTION_ID()", _user(url)
        ):
            sql(url, f"KILL CONNECTION {number}")
        await until(lambda: _connections(url) == 0)
        await asyncio.sleep(ON_ITS_WAY_SECONDS)
        assert not ids & await world.use()
        _assert_silent(world)


async def _through_proxy(url: str, harm: Callable[[DatabaseProxy], None], pause_seconds: float) -> None:
    async with proxied(url) as (proxy, way), used(way) as (world, ids):
        harm(proxy)
        await asyncio.sleep(pause_seconds)
        began = time.monotonic()
        assert not ids & await world.use()
        assert time.monotonic() - began < 4 * SETTINGS.test_timeout_seconds + 2
        _assert_silent(world)


async def _outlived(url: str) -> None:
    """Nobody has cut them; they are replaced because of their age, also those that are in use all the time."""
    world = World(url, DatabaseSettings(pool_size=3, connection_age_max_seconds=0.5, follow_seconds=0))
    try:
        ids = await world.use()
        await asyncio.sleep(0.5)
        assert not ids & await world.use()
        _assert_silent(world)
    finally:
        await world.close()


def _user(url: str) -> str:
    return make_url(url).username or ""


def _assert_silent(world: World) -> None:
    """Found out before anything was sent on them: no transaction had to begin again."""
    assert world.retries == []


WAYS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "wait_timeout": _wait_timeout,
    "killed": _killed,
    "reset": lambda url: _through_proxy(url, DatabaseProxy.reset, ON_ITS_WAY_SECONDS),
    "closed": lambda url: _through_proxy(url, DatabaseProxy.finish, ON_ITS_WAY_SECONDS),
    "half-open": lambda url: _through_proxy(url, DatabaseProxy.swallow, 0.4),
    "old": _outlived,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_died_while_idle_is_replaced_silently(
    own_server: LocalServer, caplog: pytest.LogCaptureFixture, loop: str, way: str
) -> None:
    own_server.start()
    _run(loop, WAYS[way](f"{own_server.url}/mysql"))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_was_restarted_is_connected_to_anew(
    own_server: LocalServer, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    async def scenario() -> None:
        async with used(f"{own_server.url}/mysql") as (world, _):
            own_server.stop()
            own_server.start()
            await asyncio.sleep(ON_ITS_WAY_SECONDS)
            await world.use()
            _assert_silent(world)

    own_server.start()
    _run(loop, scenario())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_dies_in_the_middle_of_a_transaction_makes_it_begin_again(
    own_server: LocalServer, loop: str
) -> None:
    """Never is the second command of a transaction sent on a new connection."""

    async def scenario() -> None:
        world = World(f"{own_server.url}/mysql")
        session, texts = world.sessions[0], []

        async def attempt() -> None:
            try:
                *_, [(number,)] = await session.execute("START TRANSACTION;SELECT CONNECTION_ID()", {})
                texts.append(number)
                if len(texts) == 1:
                    sql(own_server.url, f"KILL CONNECTION {number}")
                    await asyncio.sleep(0.1)
                *_, [(same,)] = await session.execute("SELECT CONNECTION_ID()", {})
                assert same == number
                await session.execute("COMMIT", {})
            except BaseException:
                await session.rollback()
                raise

        await world.database.retry(attempt)
        assert len(texts) == 2
        assert len(world.retries) == 1
        await world.close()

    own_server.start()
    _run(loop, scenario())


class _TlsServer(LocalServer):
    """A server with a certificate of its own."""

    def _options(self) -> list[str]:
        names = {"ssl-ca": "ca.pem", "ssl-cert": "server.pem", "ssl-key": "key.pem"}
        return [*super()._options(), *(f"--{name}={self.folder / file}" for name, file in names.items())]


@pytest.mark.parametrize("loop", LOOPS)
def test_an_encrypted_connection_that_was_closed_is_replaced_silently(
    tmp_path: Path, database_flavour: Flavour, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    _write_certificate(tmp_path)
    settings = LocalServerSettings(buffer_pool_mib=64, redo_log_mib=64)
    with _TlsServer(tmp_path, database_flavour, settings=settings) as server:
        url = f"{server.url}/mysql?tls=on&tls_ca={tmp_path / 'ca.pem'}"

        async def scenario() -> None:
            async with used(url) as (world, ids):
                assert scalar(server.url, "SELECT COUNT(*) FROM information_schema.processlist") > len(ids)
                for number in ids:
                    sql(server.url, f"KILL CONNECTION {number}")
                await asyncio.sleep(ON_ITS_WAY_SECONDS)
                assert not ids & await world.use()
                _assert_silent(world)

        _run(loop, scenario())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def _write_certificate(folder: Path) -> None:
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a database")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    for file in ("ca.pem", "server.pem"):
        (folder / file).write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def _run(loop: str, scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario)
