"""Settings of the HTTP facade's guards: who may call, how often, and how long a request may take."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from jwt import PyJWK, PyJWKSet, PyJWTError
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from service_kit.actors import KeyName
from service_kit.client_addresses import Network
from service_kit.settings import ALLOW_INSECURE, ServiceSettings, is_loopback

DEVELOPMENT_KEY = "order-service-api-key"
DEVELOPMENT_BROWSER_KEY = "order-service-browser-key"
DEVELOPMENT_JWT_SECRET = "development-only: no secret at all, for nobody"  # noqa: S105 - and refused elsewhere
JWT_SECRET_LENGTH_MIN = 32
WAIT_SECONDS_MAX = 30


class ApiKey(BaseModel, extra="forbid"):
    """A key that may call this service; only its hash is configured."""

    name: KeyName
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hexadecimal SHA-256 of the key")
    roles: frozenset[Literal["service", "admin"]] = Field(frozenset({"service"}), min_length=1)
    person_required: bool = Field(
        False, description="only together with a person's token: for keys that people can read, as those in browsers"
    )


class UserAccount(BaseModel, extra="forbid"):
    """A person who may ask for a token with a password."""

    name: str = Field(min_length=1, max_length=64)
    user_id: str = Field(min_length=1, max_length=64, description="the user_id of this person's orders")
    role: Literal["customer", "admin"] = "customer"
    password_hash: str = Field(pattern=r"^\$argon2", repr=False, description="Argon2 hash, with its parameters")


DEVELOPMENT_USERS = (
    # The password is "admin".
    UserAccount(
        name="admin",
        user_id="admin",
        role="admin",
        password_hash="$argon2id$v=19$m=65536,t=3,p=4$eB5kzIBXyHLPKnIv2QWAVA$"  # noqa: S106
        "VF6aTGT1QbuZnTpi5HtGdUw+Hdq+nKY3QH+kAqTZxPI",
    ),
    # The password is "customer".
    UserAccount(
        name="customer",
        user_id="7",
        password_hash="$argon2id$v=19$m=65536,t=3,p=4$PzMWj6Bf2ppnWjm7Ad2fzw$"  # noqa: S106
        "XtcRTgRFxcBul8V6iWeEFc0ZB7mTAM56NQR9XuC5cRY",
    ),
)
_EMPTY_KEY_HASH = hashlib.sha256(b"").hexdigest()
_DEVELOPMENT_KEY_HASH = hashlib.sha256(DEVELOPMENT_KEY.encode()).hexdigest()
_DEVELOPMENT_BROWSER_KEY_HASH = hashlib.sha256(DEVELOPMENT_BROWSER_KEY.encode()).hexdigest()
_EXAMPLE = '[{"name": "shop", "sha256": "<SHA-256 of a secret key>", "roles": ["service"]}]'
_KEYS: TypeAdapter[tuple[ApiKey, ...]] = TypeAdapter(tuple[ApiKey, ...])


class AccessSettings(ServiceSettings):
    """The part of the order service's settings that says who may call it, how often and how much."""

    profile: Literal["production", "development"] = "production"
    listen: str = Field("127.0.0.1:3000", pattern=r"^.+:\d{1,5}$")
    allow_insecure: str = Field(
        "",
        pattern=f"^({ALLOW_INSECURE})?$",
        description=f"{ALLOW_INSECURE}: the development profile where others reach it",
    )
    api_keys: tuple[ApiKey, ...] = ()
    api_keys_file: Path | None = Field(None, description="JSON list of further keys; read again when it changes")
    api_keys_check_seconds: float = Field(2, gt=0, le=3600, description="how often files of keys are looked at")
    jwt_secret: SecretStr = Field(SecretStr(""), description="for HS256; at least 32 bytes")
    jwt_jwks_file: Path | None = Field(
        None, description="public keys for RS256 and ES256, as a JWK set; read again when it changes"
    )
    jwt_issuer: str = Field("order-service", min_length=1)
    jwt_audience: str = Field("order-service", min_length=1)
    jwt_leeway_seconds: float = Field(10, ge=0, le=300, description="how far clocks may differ")
    token_lifetime_seconds: int = Field(3600, ge=60, le=86_400, description="of tokens issued here")
    users: tuple[UserAccount, ...] = ()
    logins_per_minute_max: int = Field(30, ge=1, le=10_000, description="attempts to get a token, per address")
    wrong_passwords_per_minute_max: int = Field(
        10, ge=1, le=10_000, description="per account, from addresses where nobody has logged in to it before"
    )
    wrong_keys_per_minute_max: int = Field(
        60, ge=1, le=1_000_000, description="per address; then keys that were not used from there are refused unseen"
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (), description='networks of proxies whose X-Forwarded-For counts: ["10.0.0.0/8", "::1"]'
    )
    open_requests_per_second_max: float = Field(
        200, gt=0, le=1_000_000, description="of what needs no key, health and metrics, too; per address and process"
    )
    requests_per_second_max: float = Field(5000, gt=0, le=1_000_000, description="per key and process")
    requests_per_second_per_person_max: float = Field(
        100, gt=0, le=1_000_000, description="per person (a token's subject) and process"
    )
    requests_in_flight_max: int = Field(
        1000, ge=1, le=100_000, description="of callers with a key, per process; more are refused at once"
    )
    open_requests_in_flight_max: int = Field(
        100, ge=1, le=100_000, description="of what needs no key (logins, callbacks, documents), per process"
    )
    order_waits_max: int = Field(500, ge=1, le=100_000, description="requests with ?wait= that wait, per process")
    event_streams_max: int = Field(200, ge=1, le=100_000, description="open streams of order events per process")
    key_share_max: float = Field(
        0.8, gt=0, le=1, description="of requests, waits and streams at the same time, for one key alone"
    )
    person_share_max: float = Field(
        0.1, gt=0, le=1, description="of requests, waits and streams at the same time, for one person alone"
    )
    address_share_max: float = Field(
        0.2, gt=0, le=1, description="of open_requests_in_flight_max, for one address alone"
    )
    request_seconds_max: float = Field(60, gt=WAIT_SECONDS_MAX, le=3600, description="a request that takes longer ends")
    body_seconds_max: float = Field(10, gt=0, le=3600, description="from a request's header to the end of its body")
    header_seconds_max: float = Field(10, gt=0, le=3600, description="from the begin of a header to its end")
    send_seconds_max: float = Field(30, gt=0, le=3600, description="how long a client may take nothing of its answer")
    connections_max: int = Field(4000, ge=1, le=1_000_000, description="open connections, per process")
    connections_per_address_max: int = Field(
        1000, ge=1, le=1_000_000, description="of connections_max from one address; trusted proxies may have them all"
    )
    connection_idle_seconds_max: float = Field(
        75, gt=0, le=86_400, description="between two requests; proxies should keep theirs for less"
    )
    ready_seconds: float = Field(1, ge=0, le=60, description="how old an answer of /ready may be")
    event_stream_seconds_max: float = Field(3600, gt=0, le=86_400, description="then the client connects again")
    event_heartbeat_seconds: float = Field(15, gt=0, le=300, description="a silent stream shows that it lives")
    event_poll_seconds: float = Field(0.25, gt=0, le=60, description="how often watched orders are looked at")
    host_names: tuple[str, ...] = Field(
        (), description="names with a dot by which the development profile may be asked for"
    )
    cors_origins: tuple[str, ...] = Field((), description='origins of browsers that may call; ("*",): all')
    cors_max_age_seconds: int = Field(600, ge=0, le=86_400)

    @model_validator(mode="after")
    def _filled_in(self) -> Self:
        if self.profile == "development":
            if not self.api_keys and not self.api_keys_file:
                roles: frozenset[Literal["service", "admin"]] = frozenset({"service", "admin"})
                self.api_keys = (
                    ApiKey(name="development", sha256=_DEVELOPMENT_KEY_HASH, roles=roles),
                    ApiKey(name="development-browser", sha256=_DEVELOPMENT_BROWSER_KEY_HASH, person_required=True),
                )
            if not self.jwt_secret.get_secret_value():
                self.jwt_secret = SecretStr(DEVELOPMENT_JWT_SECRET)
            self.users = self.users or DEVELOPMENT_USERS
        return self

    def reasons_not_to_serve(self) -> list[str]:
        """Why a server must not be run with these settings; see ServiceSettings."""
        reasons = self._unusable_keys()
        secret = self.jwt_secret.get_secret_value()
        if secret and len(secret.encode()) < JWT_SECRET_LENGTH_MIN:
            reasons.append(f"ORDERS_JWT_SECRET is too short: take at least {JWT_SECRET_LENGTH_MIN} random bytes")
        if self.users and not secret:
            reasons.append("ORDERS_USERS get tokens signed with ORDERS_JWT_SECRET: set it, or no users")
        if self.profile != "development":
            reasons += self._known_to_everybody()
        elif not is_loopback(self.listen) and not self.allow_insecure:
            reasons.append(
                f"ORDERS_PROFILE: everybody knows the keys of the profile development, and can reach {self.listen} "
                "(ORDERS_LISTEN); listen on 127.0.0.1, or take the profile production, or allow it with "
                f"ORDERS_ALLOW_INSECURE={ALLOW_INSECURE}"
            )
        return reasons

    def risks(self) -> list[str]:
        """What is dangerous, though it may be meant so; see ServiceSettings."""
        if is_loopback(self.listen) or self.trusted_proxies:
            return []
        risk = (
            f"ORDERS_LISTEN: others reach {self.listen}, and this service speaks no TLS: keys, passwords and tokens "
            "travel in clear text; have them come through a proxy with TLS and name it in ORDERS_TRUSTED_PROXIES, "
            "or listen on 127.0.0.1"
        )
        return [risk]

    def _unusable_keys(self) -> list[str]:
        reasons, keys = [], self.api_keys
        if self.api_keys_file:
            try:
                keys += read_keys(self.api_keys_file)
            except ValueError as error:
                reasons.append(str(error))
        if not keys and not reasons:
            reasons.append(
                'set ORDERS_API_KEYS=[{"name": "shop", "sha256": "<SHA-256 of a secret key>"}], '
                f"or ORDERS_PROFILE=development to try it out with the key {DEVELOPMENT_KEY}"
            )
        for refuse in (
            refuse_empty_key,
            refuse_doubled,
            *([] if self.profile == "development" else [refuse_development_key]),
        ):
            try:
                refuse(keys)
            except ValueError as error:
                reasons.append(str(error))
        if self.jwt_jwks_file:
            try:
                read_public_keys(self.jwt_jwks_file.read_bytes())
            except (OSError, ValueError) as error:
                problem = error.strerror if isinstance(error, OSError) else error
                reasons.append(f"ORDERS_JWT_JWKS_FILE: {self.jwt_jwks_file} can't be used: {problem}")
        return reasons

    def _known_to_everybody(self) -> list[str]:
        reasons = []
        if self.jwt_secret.get_secret_value() == DEVELOPMENT_JWT_SECRET:
            reasons.append("ORDERS_JWT_SECRET is the one of the development profile; make a secret one")
        known = {user.password_hash for user in DEVELOPMENT_USERS}
        if any(user.password_hash in known for user in self.users):
            reasons.append("ORDERS_USERS holds a password of the development profile; make secret ones")
        return reasons


def refuse_empty_key(keys: Iterable[ApiKey]) -> None:
    """Raises: ValueError, if one of `keys` lets in who shows none."""
    if any(key.sha256 == _EMPTY_KEY_HASH for key in keys):
        raise ValueError("ORDERS_API_KEYS holds the hash of an empty key, which lets everybody in; make a secret one")


def refuse_doubled(keys: Iterable[ApiKey]) -> None:
    """Raises: ValueError, if two of `keys` are one, with two names or sets of roles."""
    names: dict[str, str] = {}
    for key in keys:
        if key.sha256 in names:
            raise ValueError(
                f"ORDERS_API_KEYS holds the same sha256 twice, as {names[key.sha256]!r} and {key.name!r}: whoever "
                "shows that key would be either; make a key of its own for each"
            )
        names[key.sha256] = key.name


def read_public_keys(content: bytes) -> dict[str, PyJWK]:
    """The keys of a JWK set, by their key ids. Raises: ValueError, saying what is wrong with it."""
    try:
        keys = PyJWKSet.from_json(content.decode()).keys
    except (PyJWTError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"it is no JWK set ({error})") from error
    if nameless := sum(not key.key_id for key in keys):
        raise ValueError(f"{nameless} of its keys have no kid, by which a token names its key")
    return {str(key.key_id): key for key in keys}


def refuse_development_key(keys: Iterable[ApiKey]) -> None:
    """Raises: ValueError, if everybody knows one of `keys`."""
    if any(key.sha256 in (_DEVELOPMENT_KEY_HASH, _DEVELOPMENT_BROWSER_KEY_HASH) for key in keys):
        raise ValueError("ORDERS_API_KEYS holds the development key; make a secret one, or ORDERS_PROFILE=development")


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file. Raises: ValueError, saying what is wrong with the file."""
    try:
        return parse_keys(path.read_bytes())
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"ORDERS_API_KEYS_FILE {path} can't be used: {problem}; it must look like {_EXAMPLE}"
        ) from error


def parse_keys(content: bytes) -> tuple[ApiKey, ...]:
    """The keys of a file's content. Raises: ValueError, saying what is wrong with it."""
    try:
        return _KEYS.validate_python(json.loads(content))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error
