"""The client over TLS, with and without a certificate of its own, on a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stockwarden_client import ClientSettings, WarehouseClient, connection
from stockwarden_client.connection import client_tls
from tests.kits.certificates import Authority

SERVICE = "warehouse.v1.WarehouseService"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(authority: Authority, *, asks_for_certificate: bool) -> AsyncIterator[str]:
    certificate, key = authority.issue("server")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        authority.certificate.read_bytes() if asks_for_certificate else None,
        asks_for_certificate,
    )
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def is_serving(settings: ClientSettings) -> bool:
    async with WarehouseClient(settings) as warehouse:
        return await warehouse.is_serving(timeout_seconds=2)


async def test_tls(authority: Authority) -> None:
    async with serving(authority, asks_for_certificate=False) as target:
        assert await is_serving(ClientSettings(target=target, tls_ca=authority.certificate))
        assert not await is_serving(ClientSettings(target=target))
        assert not await is_serving(ClientSettings(target=target, tls=True))


async def test_mutual_tls(authority: Authority) -> None:
    certificate, key = authority.issue("client")
    async with serving(authority, asks_for_certificate=True) as target:
        mine = ClientSettings(target=target, tls_ca=authority.certificate, tls_cert=certificate, tls_key=key)
        assert await is_serving(mine)
        assert not await is_serving(ClientSettings(target=target, tls_ca=authority.certificate))


async def test_renewed_files_are_used_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections get the new files; a certificate whose key is not there yet leaves the old ones."""
    monkeypatch.setattr(connection, "TLS_LOOK_SECONDS", 0)
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    ca, certificate, key = tmp_path / "ca.pem", tmp_path / "mine.pem", tmp_path / "mine.key"

    def copy(authority: Authority, *, whole: bool) -> None:
        pair = authority.issue("client")
        ca.write_bytes(authority.certificate.read_bytes())
        certificate.write_bytes(pair[0].read_bytes())
        if whole:
            key.write_bytes(pair[1].read_bytes())

    copy(before, whole=True)
    settings = ClientSettings(target="", tls_ca=ca, tls_cert=certificate, tls_key=key)
    async with serving(before, asks_for_certificate=True) as old, serving(after, asks_for_certificate=True) as new:
        to_old, to_new = (WarehouseClient(settings.model_copy(update={"target": target})) for target in (old, new))
        async with to_new:
            async with to_old:
                assert await to_old.is_serving(timeout_seconds=5)
                assert not await to_new.is_serving(timeout_seconds=1)
                copy(after, whole=False)
                assert await to_old.is_serving(timeout_seconds=5)
                copy(after, whole=True)
                assert not await to_old.is_serving(timeout_seconds=1)
            assert await to_new.is_serving(timeout_seconds=5)


def test_a_file_that_can_not_be_used_is_told(tmp_path: Path, authority: Authority) -> None:
    certificate, _ = authority.issue("client")
    _, other_key = authority.issue("other")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        client_tls(ClientSettings(tls_ca=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="not the key of the certificate"):
        client_tls(ClientSettings(tls_cert=certificate, tls_key=other_key))
    assert client_tls(ClientSettings()) is None
