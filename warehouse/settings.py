"""The settings of the warehouse, read from environment variables that begin with WAREHOUSE_."""

import os
from pathlib import Path

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_kit.batcher import BatcherSettings
from service_kit.database import DatabaseSettings, service_database_url
from warehouse.auth import ApiKey
from warehouse.sizes import MESSAGE_BYTES_LEAST


class Limits(BaseModel):
    """What one call may ask for. Quantities and text lengths are part of the contract, not settings."""

    ttl_default_seconds: float = Field(900, gt=0, description="how long a hold lasts if the caller does not say")
    ttl_max_seconds: float = Field(7 * 86400, gt=0)
    page_size_default: int = Field(100, ge=1, le=1000)

    @model_validator(mode="after")
    def _default_within_max(self) -> "Limits":
        if self.ttl_default_seconds > self.ttl_max_seconds:
            raise ValueError("ttl_default_seconds is more than ttl_max_seconds")
        return self


class WarehouseSettings(BaseSettings):
    """Everything that can be configured. A nested value is written `WAREHOUSE_BATCHER__BATCH_SIZE_MAX=128`."""

    model_config = SettingsConfigDict(env_prefix="WAREHOUSE_", env_nested_delimiter="__")

    database_url: str = Field(
        "", description="mysql://user:password@host:port/database; else DATABASE_URL and the database `warehouse`"
    )
    listen: str = Field("127.0.0.1:50051", pattern=r"^.+:\d+$", description="address and port; port 0: any free one")
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

    calls_max: int = Field(16_384, ge=1, description="calls in flight per process; past it callers are turned away")
    call_seconds_max: float = Field(30, gt=0, description="time for a call whose caller sets no deadline")
    message_bytes_max: int = Field(
        4 * 1024 * 1024,
        ge=MESSAGE_BYTES_LEAST,
        le=64 * 1024 * 1024,
        description="of a request and of an answer; pages of lists end by it. Clients must take answers of that size",
    )
    stop_grace_seconds: float = Field(10, ge=0, le=600, description="time for calls in flight after SIGTERM")
    keepalive_seconds: float = Field(60, ge=1, description="ping a silent client this often")
    keepalive_client_min_seconds: float = Field(10, ge=0, description="hang up on clients that ping more often")
    connection_age_max_seconds: float = Field(3600, ge=1, description="then clients reconnect, and spread anew")

    health_check_seconds: float = Field(
        2, gt=0, le=60, description="how often the database is asked for a sign of life"
    )
    sweep_seconds: float = Field(1, gt=0, le=3600, description="pause between two sweeps for expired holds")
    sweep_size_max: int = Field(500, ge=1, le=10_000, description="holds expired together by a sweep")

    limits: Limits = Limits()
    batcher: BatcherSettings = BatcherSettings()
    reader: BatcherSettings = BatcherSettings()
    database: DatabaseSettings = DatabaseSettings()

    @field_validator("database_url")
    @classmethod
    def _find_database(cls, value: str) -> str:
        server = os.environ.get("DATABASE_URL", "")
        if value or not server:
            return value
        return service_database_url(server, "warehouse")

    @model_validator(mode="after")
    def _complete(self) -> "WarehouseSettings":
        if not self.database_url:
            raise ValueError("set WAREHOUSE_DATABASE_URL, or DATABASE_URL=mysql://user:password@host:port")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("WAREHOUSE_TLS_CERTIFICATE and WAREHOUSE_TLS_KEY go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("WAREHOUSE_TLS_CLIENT_CA needs WAREHOUSE_TLS_CERTIFICATE and WAREHOUSE_TLS_KEY")
        return self
