"""What can be set from outside, each bound with its unit; read from ORDERS_... environment variables."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from order_gateway.access import AccessSettings
from order_gateway.gateway.breaker import BreakerSettings
from order_gateway.gateway.port import Mode
from order_gateway.lifecycle import CURRENCY_UNLESS_SAID
from order_gateway.payments.settings import Band as Band
from order_gateway.payments.settings import PaymentSettings as PaymentSettings
from order_gateway.payments.settings import SimulatorSettings as SimulatorSettings
from order_gateway.payments.settings import payment_problems
from service_kit.batcher import BatcherSettings
from service_kit.database.database import DatabaseSettings, service_database_url
from service_kit.database_url import BadDatabaseUrl, read_database_url
from service_kit.pem import check_certificates, check_pair
from service_kit.settings import is_loopback
from stockwarden_client import ClientSettings

SESSIONS_PINNED = 3
"""Connections of the pool that the store keeps for itself: for new orders, for changes, and for reads."""


class BackgroundRole(StrEnum):
    """Work in the background that not every process of a fleet has to do; each is safe in any number of them."""

    RELAY = "relay"
    """Finishes steps that requests left undone, sends queued orders, cancels unpaid ones."""
    RETENTION = "retention"
    """Deletes what is only needed for a while."""
    CATALOGUE = "catalogue"
    """Keeps the last known prices up to date."""


class RelaySettings(BaseModel, extra="forbid"):
    """The background task that finishes what was begun."""

    poll_seconds: float = Field(0.5, gt=0, le=60, description="how often it looks for work when there is none")
    concurrency: int = Field(64, ge=1, le=1000, description="steps done at the same time")
    lease_seconds: float = Field(30, gt=0, le=3600, description="after this another process takes a step over")
    retry_wait_initial_seconds: float = Field(0.5, gt=0, le=60)
    retry_wait_max_seconds: float = Field(30, gt=0, le=3600)
    park_tries: int = Field(
        20, ge=1, le=10_000, description="tries of a step that fails for a reason of its own; then it is parked"
    )
    park_patience_seconds: float = Field(
        86_400, gt=0, le=366 * 86_400, description="after so long a step is parked whose answer only has not come yet"
    )
    parked_retry_seconds: float = Field(3600, gt=0, le=86_400, description="how often a parked step is tried")
    sweep_batch: int = Field(100, ge=1, le=10_000, description="unpaid orders cancelled per look")


class RetentionSettings(BaseModel, extra="forbid"):
    """The background task that deletes what is only needed for a while."""

    idempotency_keys_seconds: float = Field(
        86_400, ge=60, le=366 * 86_400, description="answers by Idempotency-Key, from their first request on"
    )
    every_seconds: float = Field(60, gt=0, le=86_400, description="how often it looks for what is over age")
    batch: int = Field(500, ge=1, le=10_000, description="rows per transaction")
    pause_seconds: float = Field(0.05, ge=0, le=60, description="between two batches, for everybody else")


class AuditSettings(BaseModel, extra="forbid"):
    """The commands that compare orders with the warehouse."""

    page_size: int = Field(1000, ge=1, le=10_000, description="orders compared at once")
    looks_max: int = Field(5, ge=1, le=100, description="looks at an order that changes while it is compared")
    clock_tolerance_seconds: float = Field(
        60, ge=0, le=86_400, description="how far the clocks of the two databases may differ"
    )
    findings_max: int = Field(
        1000, ge=1, le=1_000_000, description="orders kept to be shown and mended in one go; more are only counted"
    )
    shown_max: int = Field(20, ge=0, le=10_000, description="unfinished orders named")


class MetricsSettings(BaseModel, extra="forbid"):
    """What /metrics may ask of the database."""

    refresh_seconds: float = Field(5, ge=0, le=3600, description="how old the numbers from the database may be")
    query_timeout_seconds: float = Field(3, gt=0, le=60, description="then /metrics answers without them")
    counted_max: int = Field(100_000, ge=1, le=10_000_000, description="orders per status, and steps, counted")


class OrdersSettings(AccessSettings):
    """The order service."""

    model_config = SettingsConfigDict(env_prefix="ORDERS_")

    database_url: str = Field("", repr=False, description="mysql://user:password@host:port/database")
    server_url: str = Field("", validation_alias=AliasChoices("DATABASE_URL"), repr=False)
    database: DatabaseSettings = DatabaseSettings()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    background_roles: frozenset[BackgroundRole] = Field(
        frozenset(BackgroundRole),
        description='background work of this process: ["relay", "retention", "catalogue"]; some process needs each',
    )
    warehouse_target: str = "127.0.0.1:50051"
    warehouse_api_key: SecretStr = SecretStr("")
    warehouse: ClientSettings = ClientSettings()
    warehouse_look_seconds: float = Field(
        10, gt=0, le=3600, description="how often the warehouse is asked whether it takes our key, and for its clock"
    )
    gateway: Mode = Field(
        Mode.GRPC,
        validation_alias=AliasChoices("ORDERS_GATEWAY", "WAREHOUSE_GATEWAY"),
        description="how new orders reach the warehouse; an admin can switch it at run time",
    )
    gateway_poll_seconds: float = Field(1, gt=0, le=60, description="how soon every process follows a switch")
    breaker: BreakerSettings = BreakerSettings()
    batches: BatcherSettings = BatcherSettings(batch_size_max=128)
    """Smaller than the warehouse's: some orders are written while others are reserved and others answered."""

    payment_window_seconds: float = Field(900, gt=0, le=7 * 86_400, description="from reservation to payment_deadline")
    hold_grace_seconds: float = Field(120, ge=1, le=86_400, description="how long the hold outlives the deadline")
    reservation_timeout_seconds: float = Field(
        300, gt=0, le=86_400, description="a queued order that is not reserved by then is cancelled"
    )
    reserve_deadline_seconds: float = Field(3, gt=0, le=60, description="what a customer waits for the hold")
    step_deadline_seconds: float = Field(3, gt=0, le=60, description="for any other call to the warehouse")
    warehouse_changes_max: int = Field(
        3, ge=0, le=100, description="how often an order is sent to another warehouse, where the choice is ours"
    )
    charge_timeout_seconds: float = Field(10, gt=0, le=120, description="for a payment or a refund, with all its tries")
    lease_margin_seconds: float = Field(5, gt=0, le=60, description="before the relay takes over from a request")
    idempotency_claim_seconds: float = Field(
        4,
        gt=0,
        le=600,
        description="then a repetition takes over from a request that died; renewed for as long as one lives",
    )
    currency_default: str = Field(
        CURRENCY_UNLESS_SAID,
        pattern="^[A-Z]{3}$",
        description="of a unit_price that a service names without a currency",
    )
    price_cache_seconds: float = Field(2, ge=0, le=3600, description="how old a known price may be; 0: none is kept")
    price_deadline_seconds: float = Field(
        0.5, gt=0, le=60, description="what an order waits for prices; then the last known count"
    )
    catalogue_read_seconds: float = Field(
        30, gt=0, le=86_400, description="how often what has changed in the catalogue is read, by one process for all"
    )
    catalogue_all_seconds: float = Field(3600, gt=0, le=30 * 86_400, description="how often all of it is read")
    catalogue_lease_seconds: float = Field(
        120, gt=0, le=3600, description="how long one reading may take; then another process begins one"
    )
    lists_at_once_max: int = Field(
        3, ge=1, le=100, description="lists read at the same time per process; they must leave connections for others"
    )
    list_counted_max: int = Field(
        100_000, ge=1, le=100_000_000, description="a list of orders says in its meta that it has no more than this"
    )
    body_size_max_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    shutdown_grace_seconds: float = Field(10, ge=0, le=300, description="for requests in flight at a stop")
    payments: PaymentSettings = PaymentSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    relay: RelaySettings = RelaySettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    metrics: MetricsSettings = MetricsSettings()

    @field_validator("database_url")
    @classmethod
    def _is_database_url(cls, value: str) -> str:
        if value:
            read_database_url(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.database_url:
            if not self.server_url:
                raise ValueError(
                    "set ORDERS_DATABASE_URL=mysql://user:password@host:port/database, "
                    "or DATABASE_URL=mysql://user:password@host:port for all services"
                )
            try:
                self.database_url = service_database_url(self.server_url, "orders")
            except BadDatabaseUrl as error:
                raise ValueError(f"DATABASE_URL: {error}") from error
        return self

    def reasons_not_to_serve(self) -> list[str]:
        """Why a server must not be run with these settings; see ServiceSettings."""
        return [
            *super().reasons_not_to_serve(),
            *self.unusable_client(),
            *self.database.too_few_connections("ORDERS_DATABASE__POOL_SIZE", SESSIONS_PINNED),
            *payment_problems(self.payments, self.profile, self.charge_timeout_seconds),
        ]

    def risks(self) -> list[str]:
        """What is dangerous, though it may be meant so; see ServiceSettings."""
        risks, client, targets = super().risks(), self.warehouse, self.warehouse_target.split(",")
        is_safe = client.tls or client.tls_files or all(map(is_loopback, targets))
        if self.warehouse_api_key and not is_safe:
            risks.append(
                f"ORDERS_WAREHOUSE_API_KEY travels to {self.warehouse_target} (ORDERS_WAREHOUSE_TARGET) in clear text; "
                "set ORDERS_WAREHOUSE__TLS=true or ORDERS_WAREHOUSE__TLS_CA, unless a mesh encrypts it"
            )
        return risks

    def unusable_client(self) -> list[str]:
        """What is wrong with the settings of the way to the warehouse."""
        reasons = [
            f"ORDERS_WAREHOUSE__{name.upper()} is not used: set ORDERS_WAREHOUSE_{name.upper()}"
            for name in ("target", "api_key")
            if name in self.warehouse.model_fields_set
        ]
        prefix, client = "ORDERS_WAREHOUSE__", self.warehouse
        if client.tls_ca:
            reasons.append(check_certificates(f"{prefix}TLS_CA", client.tls_ca))
        if client.tls_cert and client.tls_key:
            reasons += check_pair(f"{prefix}TLS_CERT", client.tls_cert, f"{prefix}TLS_KEY", client.tls_key)
        return [reason for reason in reasons if reason]

    def client_settings(self) -> ClientSettings:
        """How to reach the warehouse."""
        return self.warehouse.model_copy(
            update={"target": self.warehouse_target, "api_key": self.warehouse_api_key.get_secret_value()}
        )
