"""What can be set from outside, each bound with its unit; read from ORDERS_... environment variables."""

from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from order_gateway.access import AccessSettings
from order_gateway.gateway import Mode
from order_gateway.gateway.breaker import BreakerSettings
from order_gateway.orders import CURRENCY_UNLESS_SAID
from order_gateway.payment_settings import Band as Band
from order_gateway.payment_settings import PaymentSettings as PaymentSettings
from order_gateway.payment_settings import SimulatorSettings as SimulatorSettings
from order_gateway.payment_settings import payment_problems
from service_kit.batcher import BatcherSettings
from service_kit.database import DatabaseSettings, service_database_url
from warehouse.client import ClientSettings


class RelaySettings(BaseModel):
    """The background task that finishes what was begun."""

    poll_seconds: float = Field(0.5, gt=0, le=60, description="how often it looks for work when there is none")
    concurrency: int = Field(64, ge=1, le=1000, description="steps done at the same time")
    lease_seconds: float = Field(30, gt=0, le=3600, description="after this another process takes a step over")
    retry_wait_initial_seconds: float = Field(0.5, gt=0, le=60)
    retry_wait_max_seconds: float = Field(30, gt=0, le=3600)
    sweep_batch: int = Field(100, ge=1, le=10_000, description="unpaid orders cancelled per look")


class RetentionSettings(BaseModel):
    """The background task that deletes what is only needed for a while."""

    idempotency_keys_seconds: float = Field(
        86_400, ge=60, le=366 * 86_400, description="answers by Idempotency-Key, from their first request on"
    )
    every_seconds: float = Field(60, gt=0, le=86_400, description="how often it looks for what is over age")
    batch: int = Field(500, ge=1, le=10_000, description="rows per transaction")
    pause_seconds: float = Field(0.05, ge=0, le=60, description="between two batches, for everybody else")


class MetricsSettings(BaseModel):
    """What /metrics may ask of the database."""

    refresh_seconds: float = Field(5, ge=0, le=3600, description="how old the numbers from the database may be")
    query_timeout_seconds: float = Field(3, gt=0, le=60, description="then /metrics answers without them")
    counted_max: int = Field(100_000, ge=1, le=10_000_000, description="orders per status, and steps, counted")


class OrdersSettings(AccessSettings):
    """The order service."""

    model_config = SettingsConfigDict(env_prefix="ORDERS_", env_nested_delimiter="__")

    database_url: str = Field("", description="mysql://user:password@host:port/database")
    server_url: str = Field("", validation_alias=AliasChoices("DATABASE_URL"), repr=False)
    database: DatabaseSettings = DatabaseSettings()
    listen: str = Field("127.0.0.1:3000", pattern=r"^.+:\d{1,5}$")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    warehouse_target: str = "127.0.0.1:50051"
    warehouse_api_key: SecretStr = SecretStr("")
    warehouse: ClientSettings = ClientSettings()
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
        20, gt=0, le=600, description="then a repetition takes over from a request that died under its Idempotency-Key"
    )
    currency_default: str = Field(
        CURRENCY_UNLESS_SAID,
        pattern="^[A-Z]{3}$",
        description="of a unit_price that a service names without a currency",
    )
    price_cache_seconds: float = Field(2, ge=0, le=3600, description="how old a known price may be; 0: none is kept")
    price_deadline_seconds: float = Field(0.5, gt=0, le=60, description="for asking prices; then the last known count")
    catalogue_read_seconds: float = Field(
        30, gt=0, le=86_400, description="how often the whole catalogue is read, for when the warehouse is away"
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
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.database_url:
            if not self.server_url:
                raise ValueError(
                    "set ORDERS_DATABASE_URL=mysql://user:password@host:port/database, "
                    "or DATABASE_URL=mysql://user:password@host:port for all services"
                )
            self.database_url = service_database_url(self.server_url, "orders")
        if problems := payment_problems(self.payments, self.profile, self.charge_timeout_seconds):
            raise ValueError("; ".join(problems))
        return self

    def client_settings(self) -> ClientSettings:
        """How to reach the warehouse."""
        return self.warehouse.model_copy(
            update={"target": self.warehouse_target, "api_key": self.warehouse_api_key.get_secret_value()}
        )
