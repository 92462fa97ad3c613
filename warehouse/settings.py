"""The settings of the warehouse, read from environment variables that begin with WAREHOUSE_."""

import os
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from service_kit.batcher import BatcherSettings
from service_kit.client_addresses import Network
from service_kit.database.database import DatabaseSettings, service_database_url
from service_kit.database_url import read_database_url
from service_kit.pem import check_certificates, check_pair
from service_kit.settings import ALLOW_INSECURE, ServiceSettings, is_loopback
from warehouse.auth import ApiKey, is_known_to_everybody
from warehouse.stock.sizes import MESSAGE_BYTES_LEAST

SESSIONS_PINNED = 2
"""Connections of the pool that a server keeps for itself: that of the store, and that of the reader of levels."""


class BackgroundRole(StrEnum):
    """Work in the background that not every process of a fleet has to do; it is safe in any number of them."""

    SWEEPER = "sweeper"
    """Ends holds whose time is over."""


class Limits(BaseModel, extra="forbid"):
    """What one call may ask for. Quantities and text lengths are part of the contract, not settings."""

    ttl_default_seconds: float = Field(900, gt=0, description="how long a hold lasts if the caller does not say")
    ttl_max_seconds: float = Field(7 * 86400, gt=0)
    page_size_default: int = Field(100, ge=1, le=1000)
    outcomes_bytes_max: int = Field(
        3 * 1024 * 1024,
        ge=1024,
        le=60 * 1024 * 1024,
        description="BatchGetRequests ends an answer that has grown to so much",
    )

    @model_validator(mode="after")
    def _default_within_max(self) -> "Limits":
        if self.ttl_default_seconds > self.ttl_max_seconds:
            raise ValueError("ttl_default_seconds is more than ttl_max_seconds")
        return self


class AuditSettings(BaseModel, extra="forbid"):
    """What the command `audit` may ask of the database."""

    slice_rows: int = Field(200_000, ge=1, le=100_000_000, description="rows that one statement looks at, about")
    time_limit_seconds: float = Field(
        3600, gt=0, le=7 * 86_400, description="how long its snapshot, and old versions of rows with it, may last"
    )


class OpenCallSettings(BaseModel, extra="forbid"):
    """Calls for health and reflection, which need no key."""

    calls_max: int = Field(200, ge=1, le=100_000, description="at once per process; as many again with a key")
    address_share_max: float = Field(0.25, gt=0, le=1, description="of calls_max, for one address alone")
    key_share_max: float = Field(0.8, gt=0, le=1, description="of those with a key, for one key alone")
    calls_per_second_max: float = Field(
        200,
        gt=0,
        le=1_000_000,
        description="without a valid key, refused ones, too; per address and process; further ones are refused late",
    )
    question_seconds_max: float = Field(
        30, gt=0, le=3600, description="how long such a call stays without a (further) question"
    )


class StreamSettings(BaseModel, extra="forbid"):
    """Calls of the warehouse's own services that are answered by a stream."""

    streams_max: int = Field(200, ge=1, le=100_000, description="at once per process")
    key_share_max: float = Field(
        0.8, gt=0, le=1, description="of streams_max, for one key alone; only where there are several keys"
    )
    seconds_max: float = Field(1800, gt=0, le=7 * 86_400, description="then a stream ends, and its caller begins anew")
    question_seconds_max: float = Field(30, gt=0, le=3600, description="from the call's begin to its request")
    key_check_seconds: float = Field(
        2, gt=0, le=60, description="how often the keys of open streams, and their roles, are looked at again"
    )


class WarehouseSettings(ServiceSettings):
    """Everything that can be configured. A nested value is written `WAREHOUSE_BATCHER__BATCH_SIZE_MAX=128`."""

    model_config = SettingsConfigDict(env_prefix="WAREHOUSE_")
    others_names: ClassVar[frozenset[str]] = frozenset({"WAREHOUSE_GATEWAY"})
    """The order gateway's way to the warehouse, which the two of them are often told together."""

    database_url: str = Field(
        "",
        validate_default=True,
        repr=False,
        description="mysql://user:password@host:port/database; else DATABASE_URL and the database `warehouse`",
    )
    listen: str = Field("127.0.0.1:50051", pattern=r"^.+:\d+$", description="address and port; port 0: any free one")
    background_roles: frozenset[BackgroundRole] = Field(
        frozenset(BackgroundRole), description='background work of this process: ["sweeper"]; some process needs it'
    )
    workers: int = Field(1, ge=1, le=64, description="processes that share the port")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    refusal_lines_per_second_max: int = Field(
        100, ge=0, le=100_000, description="log lines about refused calls; past it they are only counted"
    )
    metrics_listen: str = Field(
        "", pattern=r"^(.+:\d+)?$", description="address and port of GET /metrics, worker n adds n to it; empty: none"
    )

    tls_certificate: Path | None = Field(None, description="PEM file; without it the server speaks plain text")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key")
    tls_client_ca: Path | None = Field(None, description="PEM file; with it only clients with a certificate may call")
    api_keys: tuple[ApiKey, ...] = Field((), description="JSON list of {name, role, sha256}; empty: anyone may call")
    wrong_keys_per_minute_max: int = Field(
        60, ge=1, le=1_000_000, description="per address; then keys that were not used from there are refused unseen"
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (), description='networks of proxies whose x-forwarded-for counts: ["10.0.0.0/8", "::1"]'
    )
    allow_insecure: str = Field(
        "", pattern=f"^({ALLOW_INSECURE})?$", description=f"{ALLOW_INSECURE}: also without keys where others reach it"
    )

    lists_at_once_max: int = Field(
        4, ge=1, le=100, description="lists read at the same time per process; they must leave connections for others"
    )
    calls_max: int = Field(16_384, ge=1, description="calls in flight per process; past it callers are turned away")
    key_share_max: float = Field(
        0.8, gt=0, le=1, description="of calls_max, for one key alone; only where there are several keys"
    )
    call_seconds_max: float = Field(30, gt=0, description="time for a call whose caller sets no deadline")
    message_bytes_max: int = Field(
        4 * 1024 * 1024,
        ge=MESSAGE_BYTES_LEAST,
        le=64 * 1024 * 1024,
        description="of a request and of an answer; pages of lists end by it. Clients must take answers of that size",
    )
    request_bytes_max: int = Field(
        512 * 1024, ge=1024, le=64 * 1024 * 1024, description="of a request that is not a BatchReserve"
    )
    stop_grace_seconds: float = Field(10, ge=0, le=600, description="time for calls in flight after SIGTERM")
    keepalive_seconds: float = Field(60, ge=1, description="ping a silent client this often")
    connection_age_max_seconds: float = Field(3600, ge=1, description="then clients reconnect, and spread again")
    connection_idle_seconds_max: float = Field(300, ge=1, le=86_400, description="a connection without calls is closed")
    connections_max: int = Field(1000, ge=1, le=1_000_000, description="open connections, per process")
    streams_per_connection_max: int = Field(
        256, ge=1, le=1_000_000, description="calls at once on one connection; further ones wait at the client"
    )
    handshake_seconds_max: float = Field(
        10, gt=0, le=600, description="from a connection's begin to its first settings"
    )

    health_check_seconds: float = Field(
        2, gt=0, le=60, description="how often the database is asked for a sign of life"
    )
    sweep_seconds: float = Field(1, gt=0, le=3600, description="pause between two sweeps for expired holds")
    sweep_size_max: int = Field(500, ge=1, le=10_000, description="holds expired together by a sweep")

    open_calls: OpenCallSettings = OpenCallSettings()
    streams: StreamSettings = StreamSettings()
    audit: AuditSettings = AuditSettings()
    limits: Limits = Limits()
    batcher: BatcherSettings = BatcherSettings()
    reader: BatcherSettings = BatcherSettings()
    database: DatabaseSettings = DatabaseSettings()

    @field_validator("database_url")
    @classmethod
    def _find_database(cls, value: str) -> str:
        server = os.environ.get("DATABASE_URL", "")
        if not value and not server:
            raise ValueError("set it, or DATABASE_URL=mysql://user:password@host:port")
        url = value or service_database_url(server, "warehouse")
        read_database_url(url)
        return url

    @model_validator(mode="after")
    def _complete(self) -> "WarehouseSettings":
        problems = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            problems.append("WAREHOUSE_TLS_CERTIFICATE and WAREHOUSE_TLS_KEY go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            problems.append("WAREHOUSE_TLS_CLIENT_CA needs WAREHOUSE_TLS_CERTIFICATE and WAREHOUSE_TLS_KEY")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def reasons_not_to_serve(self) -> list[str]:
        """Why a server must not be run with these settings; see ServiceSettings."""
        return [*self._unsafe(), *self._unusable_files(), *self._too_few_connections()]

    def risks(self) -> list[str]:
        """What is dangerous, though it may be meant so; see ServiceSettings."""
        if self.tls_certificate or not self.api_keys or is_loopback(self.listen) or self.trusted_proxies:
            return []
        risk = (
            f"WAREHOUSE_LISTEN: others reach {self.listen}, and keys travel there in clear text; set "
            "WAREHOUSE_TLS_CERTIFICATE and WAREHOUSE_TLS_KEY, unless TLS ends in a mesh or in a proxy "
            "(name that in WAREHOUSE_TRUSTED_PROXIES)"
        )
        return [risk]

    def _unsafe(self) -> list[str]:
        reasons = []
        if not self.api_keys and not is_loopback(self.listen) and not self.allow_insecure:
            reasons.append(
                f"WAREHOUSE_API_KEYS: without keys everybody who reaches {self.listen} (WAREHOUSE_LISTEN) is an admin; "
                'set WAREHOUSE_API_KEYS=[{"name": "shop", "role": "order", "sha256": "<SHA-256 of a secret key>"}], '
                f"or listen on 127.0.0.1, or allow it with WAREHOUSE_ALLOW_INSECURE={ALLOW_INSECURE}"
            )
        if len({key.sha256 for key in self.api_keys}) < len(self.api_keys):
            reasons.append(
                "WAREHOUSE_API_KEYS holds the same sha256 twice: whoever shows that key would be either of two; "
                "make a key of its own for each"
            )
        known = [key.name for key in self.api_keys if is_known_to_everybody(key)]
        return reasons + [
            f"WAREHOUSE_API_KEYS: everybody knows the key of {name!r}; make a secret one" for name in known
        ]

    def _unusable_files(self) -> list[str]:
        problems = []
        if self.tls_certificate and self.tls_key:
            names = ("WAREHOUSE_TLS_CERTIFICATE", "WAREHOUSE_TLS_KEY")
            problems += check_pair(names[0], self.tls_certificate, names[1], self.tls_key)
        if self.tls_client_ca:
            problems.append(check_certificates("WAREHOUSE_TLS_CLIENT_CA", self.tls_client_ca))
        return [problem for problem in problems if problem]

    def _too_few_connections(self) -> list[str]:
        return self.database.too_few_connections("WAREHOUSE_DATABASE__POOL_SIZE", SESSIONS_PINNED)
