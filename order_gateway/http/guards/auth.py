"""Who calls, and what they may do: an API key for the calling service, and beside it a token for a person."""

from collections.abc import Sequence
from enum import Enum, auto

import msgspec
from aiohttp import web

from order_gateway.access import ApiKey
from order_gateway.http.guards.guard import Guard
from order_gateway.http.guards.keys import Keyring, find_key
from order_gateway.http.guards.tokens import Person, Tokens
from order_gateway.http.wire.addresses import client_of
from order_gateway.http.wire.connections import know_connection
from order_gateway.http.wire.errors import ApiError
from service_kit.actors import actor_of
from service_kit.attempt_limit import AttemptLimit
from service_kit.client_addresses import Network
from service_kit.logging import note_call

OPEN_PATHS = frozenset(
    {
        "/health",
        "/ready",
        "/metrics",
        "/swagger",
        "/api/v1/health",
        "/api/v1/ready",
        "/api/v1/openapi.json",
        "/api/v1/auth/token",
        "/api/v1/payments/callbacks",
    }
)
OPEN_PREFIXES = ("/swagger/",)


def is_open(path: str) -> bool:
    """Whether no key is needed for what is there."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


class Access(Enum):
    """Who may call an operation."""

    OPEN = auto()
    """Everybody, without a key."""
    CALLER = auto()
    """Everybody with a key; a customer sees and changes only their own orders."""
    SERVICE = auto()
    """Services, and admins; no customers."""
    ADMIN = auto()
    """Only admins: a person with this role, or a key with it that comes without a person."""


class Caller(msgspec.Struct, frozen=True):
    """A key, and the person behind the request if it says so."""

    key: ApiKey
    person: Person | None = None

    @property
    def actor(self) -> str:
        """For the records of who changed what."""
        return actor_of(self.key.name, "" if self.person is None else self.person.user_id)

    @property
    def is_admin(self) -> bool:
        """With a person, the person counts; otherwise the key."""
        return "admin" in self.key.roles if self.person is None else self.person.role == "admin"

    @property
    def only_user(self) -> str | None:
        """The one user whose orders this caller may see; None: all."""
        return self.person.user_id if self.person is not None and self.person.role == "customer" else None

    def must_have(self, access: Access) -> None:
        """Raises: ApiError, if this caller may not do what needs `access`."""
        if access is Access.ADMIN and not self.is_admin:
            raise ApiError("PERMISSION_DENIED", "this needs the role admin")
        if access is Access.SERVICE and self.only_user is not None:
            raise ApiError("PERMISSION_DENIED", "customers can't do this; it is for services and admins")

    def must_be(self, user_id: str) -> None:
        """Raises: ApiError, if this caller may not act for `user_id`."""
        if self.only_user not in (None, user_id):
            raise ApiError("PERMISSION_DENIED", "customers see and change only their own orders")


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


class Authenticator:
    """Knows who is behind a key, and a token if there is one."""

    def __init__(self, keyring: Keyring, tokens: Tokens) -> None:
        self.keyring = keyring
        self._tokens = tokens

    def caller(self, key: ApiKey, authorization: str | None) -> Caller:
        """Who comes with this key, and with this header Authorization. Raises: ApiError."""
        if authorization is None and key.person_required:
            raise ApiError("UNAUTHENTICATED", f"the key {key.name!r} needs a person's token beside it")
        return Caller(key, None if authorization is None else self._tokens.read(authorization))


class Credentials(msgspec.Struct, frozen=True):
    """What a caller has shown.

    It leads to no request: one that leads to itself would have to be found later, together with all that it has, by
    Python's garbage collector.
    """

    authenticator: Authenticator
    presented: str
    authorization: str | None
    caller: Caller

    def is_valid(self) -> bool:
        """Whether the key, and the token if there is one, would still be taken now."""
        # Found out again: no list of what was revoked can be out of date.
        key = self.authenticator.keyring.find(self.presented)
        try:
            return (
                key == self.caller.key and self.authenticator.caller(self.caller.key, self.authorization) == self.caller
            )
        except ApiError:
            return False


CREDENTIALS: web.RequestKey[Credentials] = web.RequestKey("credentials", Credentials)


def auth_guard(
    keyring: Keyring, tokens: Tokens, attempts: AttemptLimit, trusted_proxies: Sequence[Network] = ()
) -> Guard:
    """Let only callers with a valid key through, and remember who they are."""
    authenticator = Authenticator(keyring, tokens)

    def check(request: web.Request) -> None:
        if is_open(request.path):
            return
        presented = _only(request, "X-API-Key") or ""
        key = _admitted(attempts, client_of(request, trusted_proxies), keyring.find(presented))
        authorization = _only(request, "Authorization")
        request[CALLER] = caller = authenticator.caller(key, authorization)
        request[CREDENTIALS] = Credentials(authenticator, presented, authorization, caller)
        know_connection(request, key.name, None if caller.person is None else caller.person.user_id)
        note_call(caller=caller.actor)

    return check


def _admitted(attempts: AttemptLimit, address: str, key: ApiKey | None) -> ApiKey:
    """The key that was shown from an address, if it is one and may be used from there. Raises: ApiError, TooOften."""
    attempts.must_be_allowed(address, "" if key is None else key.sha256)
    if key is None:
        attempts.was_wrong(address)
        raise ApiError("UNAUTHENTICATED", "send a valid API key in the header X-API-Key")
    attempts.was_right(address, key.sha256)
    return key


def must_still_be_valid(request: web.Request) -> None:
    """For what took long. Raises: ApiError, if the key or the token would not be taken any more."""
    if not request[CREDENTIALS].is_valid():
        raise ApiError("UNAUTHENTICATED", "the key or the token is not valid any more")


def _only(request: web.Request, name: str) -> str | None:
    """The one header of this name. Raises: ApiError, where there are several, of which others may look at another."""
    found = request.headers.getall(name, ())
    if len(found) > 1:
        raise ApiError("UNAUTHENTICATED", f"send the header {name} once")
    return found[0] if found else None


__all__ = ["CALLER", "Access", "Caller", "auth_guard", "find_key"]
