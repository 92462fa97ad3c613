"""Where the warehouse is, and what a channel that leads there is made of."""

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Self

import grpc
from pydantic import BaseModel, Field, model_validator

log = logging.getLogger(__name__)

TLS_LOOK_SECONDS = 1.0
"""TLS files are looked at, for whether they have changed, no more often than this."""


class ClientSettings(BaseModel, extra="forbid"):
    """Where the warehouse is, and how long to insist."""

    target: str = Field(
        default="127.0.0.1:50051", description="host:port, or several separated by commas (IP addresses then)"
    )
    api_key: str = Field(default="", description="sent as x-api-key; empty: none", repr=False)
    deadline_seconds: float = Field(default=10, gt=0, le=600, description="for one call with all its repetitions")
    attempt_timeout_seconds: float = Field(
        default=3, gt=0, le=600, description="after this an answer counts as lost; never longer than the deadline"
    )
    absent_seconds: float = Field(
        default=2, gt=0, le=600, description="a client that was never answered gives up so soon where nobody listens"
    )
    retry_wait_initial_seconds: float = Field(default=0.02, gt=0, le=10)
    retry_wait_max_seconds: float = Field(default=1, gt=0, le=60)
    connections: int = Field(
        default=1, ge=1, le=64, description="TCP connections; more than one reach several worker processes"
    )
    connect_timeout_seconds: float = Field(default=5, gt=0, le=60, description="for making a connection, TLS included")
    keepalive_seconds: float = Field(
        default=30, ge=10, le=3600, description="silence after which a connection is tested"
    )
    keepalive_timeout_seconds: float = Field(
        default=5, gt=0, le=60, description="and dropped, if it has not answered by then"
    )
    probe_timeout_seconds: float = Field(
        default=1.5, gt=0, le=60, description="for a sign of life of a connection that did not answer a call"
    )
    probes: int = Field(default=2, ge=1, le=10, description="signs of life that must be missing before it is replaced")
    message_size_max_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    tls: bool = Field(default=False, description="encrypt; implied by the files below")
    tls_ca: Path | None = Field(default=None, description="PEM file of the CA; unset: the system's")
    tls_cert: Path | None = Field(default=None, description="PEM file with this client's certificate, for mutual TLS")
    tls_key: Path | None = Field(default=None, description="PEM file with its private key")

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


def channel_options(settings: ClientSettings) -> list[tuple[str, Any]]:
    """What gRPC is told: keepalive, sizes, and what it is to leave to this library."""
    keepalive_ms = int(settings.keepalive_seconds * 1000)
    return [
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


class ClientTls:
    """What encrypts connections, of the TLS files as they were when last looked at.

    Files that change are used for new connections. What can't be read or used any more is logged, and what was read
    before stays: a half-written file, or a certificate whose key has not been replaced yet, ends nothing.

    Raises: OSError, ValueError: a file can't be used.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._looking = threading.Lock()
        self._contents = self._read()
        self.credentials = self._make(self._contents)
        self._looked_at = time.monotonic()
        self._problem = ""

    def has_changed(self) -> bool:
        """Whether there are other files than before; looks no more often than every TLS_LOOK_SECONDS."""
        if time.monotonic() - self._looked_at < TLS_LOOK_SECONDS:
            return False
        with self._looking:
            self._looked_at = time.monotonic()
            try:
                return self._look()
            except (OSError, ValueError) as error:
                self._note(str(error))
                return False

    def _look(self) -> bool:
        contents = self._read()
        if contents == self._contents:
            return False
        self.credentials = self._make(contents)
        self._contents = contents
        self._problem = ""
        return True

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("TLS files can't be used, what was read before stays: %s", problem)

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._settings.tls_files]

    def _make(self, contents: list[bytes]) -> grpc.ChannelCredentials:
        _check_tls(self._settings)
        if self._read() != contents:
            raise ValueError("they are being replaced")
        rest = list(contents)
        authority = rest.pop(0) if self._settings.tls_ca else None
        certificate, key = rest if self._settings.tls_cert else (None, None)
        return grpc.ssl_channel_credentials(authority, key, certificate)


def _check_tls(settings: ClientSettings) -> None:
    """Raises: OSError, ValueError. gRPC itself would say nothing, and fail at every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It makes no connection: whether a key is long enough is for gRPC to say.
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        if settings.tls_ca:
            context.load_verify_locations(settings.tls_ca)
    except ssl.SSLError as error:
        raise ValueError(f"tls_ca: {settings.tls_ca} holds no PEM certificate") from error
    try:
        if settings.tls_cert and settings.tls_key:
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("tls_key is not the key of the certificate in tls_cert") from error
        raise ValueError(
            "tls_cert, tls_key: they hold no PEM certificate and private key without passphrase"
        ) from error


def client_tls(settings: ClientSettings) -> ClientTls | None:
    """What encrypts connections as `settings` say; None where they are not to be. Raises: as ClientTls."""
    return ClientTls(settings) if settings.tls or settings.tls_ca or settings.tls_cert else None


def target_of(settings: ClientSettings) -> str:
    """The target as gRPC wants it."""
    addresses = settings.target
    several = [address.strip().replace("localhost", "127.0.0.1") for address in addresses.split(",")]
    if len(several) == 1:
        return addresses.strip()
    return ("ipv6:" if several[0].startswith("[") else "ipv4:") + ",".join(several)
