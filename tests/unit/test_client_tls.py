"""The client over TLS, with and without a certificate of its own, on a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.certificates import Authority
from warehouse.client import ClientSettings, WarehouseClient

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
