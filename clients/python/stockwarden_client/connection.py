"""Where the warehouse is, and the channel that leads there."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import BaseModel, Field, model_validator

from service_kit.followed import Followed
from service_kit.pem import certificates, is_pair

TLS_LOOK_SECONDS = 1.0
"""TLS files are looked at, for whether they have changed, no more often than this."""


class ClientSettings(BaseModel, extra="forbid"):
    """Where the warehouse is, and how long to insist."""

    target: str = Field("127.0.0.1:50051", description="host:port, or several separated by commas (IP addresses then)")
    api_key: str = Field("", description="sent as x-api-key; empty: none", repr=False)
    deadline_seconds: float = Field(10, gt=0, le=600, description="for one call with all its repetitions")
    attempt_timeout_seconds: float = Field(
        3, gt=0, le=600, description="after this an answer counts as lost; never longer than the deadline"
    )
    absent_seconds: float = Field(
        2, gt=0, le=600, description="a client that was never answered gives up so soon where nobody listens"
    )
    retry_wait_initial_seconds: float = Field(0.02, gt=0, le=10)
    retry_wait_max_seconds: float = Field(1, gt=0, le=60)
    connections: int = Field(
        1, ge=1, le=64, description="TCP connections; more than one reach several worker processes"
    )
    connect_timeout_seconds: float = Field(5, gt=0, le=60, description="for making a connection, TLS included")
    keepalive_seconds: float = Field(30, ge=10, le=3600, description="silence after which a connection is tested")
    keepalive_timeout_seconds: float = Field(5, gt=0, le=60, description="and dropped, if it has not answered by then")
    probe_timeout_seconds: float = Field(
        1.5, gt=0, le=60, description="for a sign of life of a connection that did not answer a call"
    )
    probes: int = Field(2, ge=1, le=10, description="signs of life that must be missing before it is replaced")
    message_size_max_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    tls: bool = Field(False, description="encrypt; implied by the files below")
    tls_ca: Path | None = Field(None, description="PEM file of the CA; unset: the system's")
    tls_cert: Path | None = Field(None, description="PEM file with this client's certificate, for mutual TLS")
    tls_key: Path | None = Field(None, description="PEM file with its private key")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if "attempt_timeout_seconds" in self.model_fields_set and self.attempt_timeout_seconds > self.deadline_seconds:
            raise ValueError(
                f"attempt_timeout_seconds ({self.attempt_timeout_seconds:g}) is longer than deadline_seconds "
                f"({self.deadline_seconds:g}): set one that is not, or leave it out"
            )
        self.attempt_timeout_seconds = min(self.attempt_timeout_seconds, self.deadline_seconds)
        return self

    @property
    def tls_files(self) -> list[Path]:
        """The files that TLS needs, in the order CA, certificate, key; those that are set."""
        return [path for path in (self.tls_ca, self.tls_cert, self.tls_key) if path is not None]


def open_channel(settings: ClientSettings, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel to the warehouse as `settings` say: addresses, TLS, keepalive, sizes."""
    keepalive_ms = int(settings.keepalive_seconds * 1000)
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", keepalive_ms),
        # Also how long the kernel waits for bytes to be confirmed (TCP_USER_TIMEOUT).
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name it bounds an attempt; at a long distance a handshake takes several round trips.
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_seconds * 1000)),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.max_receive_message_length", settings.message_size_max_bytes),
        ("grpc.max_send_message_length", settings.message_size_max_bytes),
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        # Proxies that the environment names are for the way out of the house, not to the warehouse.
        ("grpc.enable_http_proxy", 0),
        # The retries here know the request id and the deadline; those inside the channel would multiply them.
        ("grpc.enable_retries", 0),
        # A pool shared by all channels would hand the connection of a replaced channel to its successor.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = _target(settings.target)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


class ClientTls:
    """What encrypts connections, of the TLS files as they were when last looked at.

    Raises: OSError, ValueError: a file can't be used.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._has_ca, self._has_certificate = settings.tls_ca is not None, settings.tls_cert is not None
        self._followed = Followed("TLS files of the warehouse's client", settings.tls_files, self._make)
        self._looked_at = time.monotonic()

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For new connections."""
        return self._followed.content

    def has_changed(self) -> bool:
        """Whether there are other files than before; looks no more often than every TLS_LOOK_SECONDS."""
        if time.monotonic() - self._looked_at < TLS_LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        return self._followed.look()

    def _make(self, contents: Sequence[bytes]) -> grpc.ChannelCredentials:
        rest = list(contents)
        authority = rest.pop(0) if self._has_ca else None
        certificate, key = rest if self._has_certificate else (None, None)
        if authority is not None:
            certificates(authority)
        if certificate is not None and key is not None and not is_pair(certificate, key):
            raise ValueError("tls_key is not the key of the certificate in tls_cert")
        return grpc.ssl_channel_credentials(authority, key, certificate)


def client_tls(settings: ClientSettings) -> ClientTls | None:
    """What encrypts connections as `settings` say; None where they are not to be. Raises: as ClientTls."""
    return ClientTls(settings) if settings.tls or settings.tls_ca or settings.tls_cert else None


def _target(addresses: str) -> str:
    several = [address.strip().replace("localhost", "127.0.0.1") for address in addresses.split(",")]
    if len(several) == 1:
        return addresses.strip()
    return ("ipv6:" if several[0].startswith("[") else "ipv4:") + ",".join(several)
