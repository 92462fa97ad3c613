"""The client over TLS, with and without a certificate of its own, on a real socket."""

import datetime
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from warehouse.client import ClientSettings, WarehouseClient

SERVICE = "warehouse.v1.WarehouseService"
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])


class Authority:
    """Signs certificates for 127.0.0.1 into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._build(self.key, is_authority=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate = self._build(key, is_authority=False)
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        unencrypted = serialization.NoEncryption()
        key_path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
        )
        return certificate_path, key_path

    def _build(self, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(NAME if is_authority else x509.Name([]))
            .issuer_name(NAME)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(local, critical=not is_authority)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(authority: Authority, *, asks_for_certificate: bool) -> AsyncIterator[str]:
    certificate, key = authority.issue("server")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        authority.path.read_bytes() if asks_for_certificate else None,
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
        assert await is_serving(ClientSettings(target=target, tls_ca=authority.path))
        assert not await is_serving(ClientSettings(target=target))
        assert not await is_serving(ClientSettings(target=target, tls=True))


async def test_mutual_tls(authority: Authority) -> None:
    certificate, key = authority.issue("client")
    async with serving(authority, asks_for_certificate=True) as target:
        mine = ClientSettings(target=target, tls_ca=authority.path, tls_cert=certificate, tls_key=key)
        assert await is_serving(mine)
        assert not await is_serving(ClientSettings(target=target, tls_ca=authority.path))
