"""What leaves this machine while it logs in to a database that lies, or to whoever stands before it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy.exc import DBAPIError

from development.runner import Failure, _check_server
from service_kit.database.database import Database, DatabaseAway, DatabaseSettings, error_number
from service_kit.database.login import LOGIN_UNSAFE, TLS_NOT_OFFERED
from service_kit.database.migrating import upgrade
from tests.kits.certificates import Authority
from tests.kits.hostile_database import (
    CAPABILITIES,
    FULL_LOGIN,
    HostileDatabase,
    more,
    switch_to,
)

PASSWORD = "correct horse battery staple"
NOT_HERE = "127.1"
"""This machine, in a way that does not show it: to the drivers, a host somewhere on the network."""
CLEAR = "mysql_clear_password"
NATIVE = "mysql_native_password"
SHA2 = "caching_sha2_password"
SHA256 = "sha256_password"
A_KEY = rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def serve(url: str) -> int | None:
    """What the services do first; the number of the error."""

    async def look() -> int | None:
        database = Database(url, DatabaseSettings(tries=1))
        try:
            await database.ping()
        except DatabaseAway as error:
            return _number(error)
        finally:
            await database.close()
        return None

    return asyncio.run(look())


def migrate(url: str) -> int | None:
    """What `migrate` does first; the number of the error."""
    with pytest.raises(DBAPIError) as caught:
        upgrade(url, "orders")
    return _number(caught.value)


def develop(url: str) -> int | None:
    """What `make run` does first; the number of the error."""
    with pytest.raises(Failure) as caught:
        _check_server(url)
    return _number(caught.value)


def _number(error: BaseException | None) -> int:
    """The number of what went wrong; 0 if it has none."""
    while error is not None:
        if (number := error_number(error)) is not None:
            return number
        error = error.__cause__
    return 0


EVERY_WAY = pytest.mark.parametrize("connect", [serve, migrate, develop])
Connect = Callable[[str], int | None]


def url_of(server: HostileDatabase, options: str = "", host: str = "127.0.0.1") -> str:
    return f"mysql://shop:{PASSWORD.replace(' ', '%20')}@{host}:{server.port}/shop{options}"


@EVERY_WAY
@pytest.mark.parametrize("plugin", [CLEAR, NATIVE, SHA2, SHA256])
def test_nothing_at_all_is_sent_to_a_server_without_tls_where_tls_is_wanted(connect: Connect, plugin: str) -> None:
    with HostileDatabase(plugin, [switch_to(CLEAR)]) as server:
        assert connect(url_of(server, "?tls=on")) == TLS_NOT_OFFERED
    assert server.plain == []


@EVERY_WAY
def test_a_stranger_with_tls_learns_nothing(connect: Connect, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with HostileDatabase(CLEAR, [switch_to(CLEAR)], theirs.issue("database")) as server:
        connect(url_of(server, f"?tls_ca={ours.certificate}"))
    assert server.packets == []
    assert all(b"shop" not in packet and PASSWORD.encode() not in packet for packet in server.plain)


@EVERY_WAY
def test_a_certificate_for_another_host_is_refused(connect: Connect, tmp_path: Path) -> None:
    """Though one's own authority has signed it: whoever has any of its certificates is not the database for that."""
    ours = Authority(tmp_path / "ours")
    with HostileDatabase(CLEAR, [switch_to(CLEAR)], ours.issue("other", host="other.example.com")) as server:
        connect(url_of(server, f"?tls_ca={ours.certificate}"))
    assert server.packets == []
    assert all(b"shop" not in packet and PASSWORD.encode() not in packet for packet in server.plain)


@EVERY_WAY
@pytest.mark.parametrize(
    ("announced", "answers"),
    [
        (CLEAR, []),
        (NATIVE, [switch_to(CLEAR)]),
        (SHA2, [switch_to(CLEAR)]),
        (NATIVE, [switch_to("dialog")]),
        (NATIVE, [switch_to("mysql_old_password")]),
        (SHA2, [switch_to(SHA2), switch_to(CLEAR)]),
    ],
)
def test_without_tls_the_password_itself_is_never_sent(connect: Connect, announced: str, answers: list[bytes]) -> None:
    with HostileDatabase(announced, answers) as server:
        assert connect(url_of(server)) is not None
    assert all(PASSWORD.encode() not in packet for packet in server.packets)
    assert len(server.packets) <= len(answers)


@EVERY_WAY
@pytest.mark.parametrize(
    ("announced", "answers"),
    [
        (SHA2, [FULL_LOGIN, more(A_KEY)]),
        (NATIVE, [switch_to(SHA2), FULL_LOGIN, more(A_KEY)]),
        (SHA256, [more(A_KEY)]),
        (NATIVE, [switch_to(SHA256), more(A_KEY)]),
    ],
)
def test_over_a_network_it_is_not_encrypted_for_whoever_sends_a_key(
    connect: Connect, announced: str, answers: list[bytes]
) -> None:
    with HostileDatabase(announced, answers) as server:
        assert connect(url_of(server, host=NOT_HERE)) == LOGIN_UNSAFE
    # An RSA-encrypted password is as long as the key.
    assert all(len(packet) < 256 for packet in server.packets)


@EVERY_WAY
def test_a_server_that_knows_only_the_ways_of_long_ago_is_told_nothing(connect: Connect) -> None:
    with HostileDatabase("", [b"\xfe"], capabilities=CAPABILITIES & ~0x88000) as server:
        assert connect(url_of(server)) == LOGIN_UNSAFE
    assert server.packets == []


@EVERY_WAY
def test_behind_tls_the_right_server_may_ask_for_the_password(connect: Connect, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    with HostileDatabase(CLEAR, [switch_to(CLEAR)], ours.issue("database")) as server:
        connect(url_of(server, f"?tls_ca={ours.certificate}"))
    assert any(PASSWORD.encode() in packet for packet in server.packets)
    assert all(PASSWORD.encode() not in packet for packet in server.plain)
