"""What can be set about payments, each bound with its unit; read from ORDERS_PAYMENTS__... and ORDERS_SIMULATOR__..."""

from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr

from service_kit.pem import check_certificates
from service_kit.settings import LOOPBACK

SECRET_LENGTH_MIN = 24
_PREFIX = "ORDERS_PAYMENTS__"


class Band(BaseModel, extra="forbid"):
    """How often the payment simulator accepts amounts below a limit."""

    below: Decimal | None = Field(None, gt=0, description="amounts under this; unset: all others")
    success_rate: float = Field(ge=0, le=1)


class SimulatorSettings(BaseModel, extra="forbid"):
    """The simulated payment provider."""

    bands: tuple[Band, ...] = (
        Band(below=Decimal(100), success_rate=1),
        Band(below=Decimal(1000), success_rate=0.95),
        Band(below=None, success_rate=0.9),
    )
    seed: str = ""
    delay_seconds: float = Field(0, ge=0, le=600)
    lost_answer_rate: float = Field(0, ge=0, le=1, description="share of calls whose answer gets lost")


class HttpProviderSettings(BaseModel, extra="forbid"):
    """A payment provider that speaks the contract in payments/provider_openapi.yaml."""

    url: str = Field("", description="what the contract's paths are added to; https, except on loopback")
    api_key: SecretStr = Field(SecretStr(""), description="sent as Authorization: Bearer")
    callback_secret: SecretStr = Field(SecretStr(""), description="signs the provider's callbacks (HMAC-SHA256)")
    callback_secret_before: SecretStr = Field(
        SecretStr(""), description="is still believed while the provider changes to callback_secret"
    )
    callback_tolerance_seconds: int = Field(300, ge=1, le=3600, description="how old or early a callback may be")
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's, as PEM")
    connect_timeout_seconds: float = Field(1, gt=0, le=60)
    timeout_seconds: float = Field(3, gt=0, le=60, description="one call, from first to last")
    answer_size_max_bytes: int = Field(65_536, ge=1024, le=16 * 1024 * 1024)
    connections_max: int = Field(64, ge=1, le=1000, description="per process")
    silences_max: int = Field(5, ge=1, le=1000, description="calls in a row without an answer; then fewer are made")
    silence_pause_seconds: float = Field(1, gt=0, le=60, description="between two calls to a provider that is silent")


class PaymentSettings(BaseModel, extra="forbid"):
    """Who takes the money, and how often they are asked again at once when no answer came; then the relay goes on."""

    provider: Literal["simulator", "external", "http"] | None = Field(
        None, description="must be set in production; in development the simulator unless set"
    )
    tries: int = Field(3, ge=1, le=20, description="calls to the provider for one answer, the first one included")
    retry_wait_initial_seconds: float = Field(0.1, gt=0, le=60, description="grows with each try, and is jittered")
    retry_wait_max_seconds: float = Field(1, gt=0, le=60)
    http: HttpProviderSettings = HttpProviderSettings()

    @property
    def has_http(self) -> bool:
        """Whether there is a provider to speak to, if only about the payments that it took before."""
        return bool(self.http.url)


def payment_problems(settings: PaymentSettings, profile: str, charge_timeout_seconds: float) -> list[str]:
    """All that is wrong with the choice of a provider, each with what to do; empty: nothing."""
    chosen = settings.provider
    problems: list[str] = []
    if profile != "development":
        if chosen is None:
            problems.append(
                f"set {_PREFIX}PROVIDER=http (a payment service takes the money), or external (you have taken it)"
            )
        elif chosen == "simulator":
            problems.append(f"{_PREFIX}PROVIDER=simulator takes no money: set http or external outside development")
    if chosen == "http" or settings.has_http:
        problems += _http_problems(settings.http, charge_timeout_seconds)
    return problems


def _http_problems(http: HttpProviderSettings, charge_timeout_seconds: float) -> list[str]:
    problems = [_url_problem(http.url)] if _url_problem(http.url) else []
    if not http.api_key.get_secret_value():
        problems.append(f"set {_PREFIX}HTTP__API_KEY, which the provider knows this service by")
    for name in ("callback_secret", "callback_secret_before"):
        secret: str = getattr(http, name).get_secret_value()
        if (secret or name == "callback_secret") and len(secret.encode()) < SECRET_LENGTH_MIN:
            problems.append(f"set {_PREFIX}HTTP__{name.upper()} to at least {SECRET_LENGTH_MIN} random characters")
    if http.ca_file is not None and (problem := check_certificates(f"{_PREFIX}HTTP__CA_FILE", http.ca_file)):
        problems.append(problem)
    if http.timeout_seconds > charge_timeout_seconds:
        problems.append(
            f"{_PREFIX}HTTP__TIMEOUT_SECONDS={http.timeout_seconds:g} must not be more than "
            f"ORDERS_CHARGE_TIMEOUT_SECONDS={charge_timeout_seconds:g}, the time for all tries together"
        )
    return problems


def _url_problem(url: str) -> str:
    example = "like https://payments.example.com/v1"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return f"{_PREFIX}HTTP__URL can't be read: it must look {example}"
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        return f"set {_PREFIX}HTTP__URL to where the provider is, {example}"
    if parts.scheme == "http" and not LOOPBACK.fullmatch(host):
        return f"{_PREFIX}HTTP__URL must begin with https, because {host} is not this machine"
    return ""
