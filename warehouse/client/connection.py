"""Where the warehouse is, and the channel that leads there."""

from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import BaseModel, Field, model_validator


class ClientSettings(BaseModel, extra="forbid"):
    """Where the warehouse is, and how long to insist."""

    target: str = Field("127.0.0.1:50051", description="host:port, or several separated by commas (IP addresses then)")
    api_key: str = Field("", description="sent as x-api-key; empty: none", repr=False)
    deadline_seconds: float = Field(10, gt=0, le=600, description="for one call with all its repetitions")
    attempt_timeout_seconds: float = Field(3, gt=0, le=600, description="after this an answer counts as lost")
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
        if self.attempt_timeout_seconds > self.deadline_seconds:
            raise ValueError("attempt_timeout_seconds must not be longer than deadline_seconds")
        return self


def open_channel(settings: ClientSettings) -> grpc.aio.Channel:
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
        # The retries here know the request id and the deadline; those inside the channel would multiply them.
        ("grpc.enable_retries", 0),
        # A pool shared by all channels would hand the connection of a replaced channel to its successor.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = _target(settings.target)
    if not (settings.tls or settings.tls_ca or settings.tls_cert):
        return grpc.aio.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tls_ca),
        private_key=_read(settings.tls_key),
        certificate_chain=_read(settings.tls_cert),
    )
    return grpc.aio.secure_channel(target, credentials, options)


def _target(addresses: str) -> str:
    several = [address.strip().replace("localhost", "127.0.0.1") for address in addresses.split(",")]
    if len(several) == 1:
        return addresses.strip()
    return ("ipv6:" if several[0].startswith("[") else "ipv4:") + ",".join(several)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
