"""Tokens for people, for a name and a password."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from order_gateway.http.bodies import LoginBody
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import Access
from order_gateway.http.guards.tokens import Tokens
from order_gateway.http.wire.addresses import client_of
from order_gateway.http.wire.errors import ApiError, success
from service_kit.attempt_limit import AttemptLimit
from service_kit.client_addresses import Network
from service_kit.rates import RateLimit


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, to be sent as Authorization: Bearer beside the API key."""

    access_token: str
    token_type: str
    expires_in: int
    user_id: str
    role: str


class LoginRoutes:
    """The operation that issues tokens.

    Args:
        attempts: counted by address.
        by_account: wrong passwords, counted by the name of a user.
        trusted_proxies: where requests may come through.
    """

    def __init__(
        self,
        tokens: Tokens,
        attempts: RateLimit,
        by_account: AttemptLimit,
        lifetime_seconds: int,
        prefix: str,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self._trusted_proxies = trusted_proxies
        self._tokens = tokens
        self._attempts = attempts
        self._by_account = by_account
        self._lifetime_seconds = lifetime_seconds
        self._prefix = prefix

    def operations(self) -> list[Operation]:
        """It, whether or not it is switched on."""
        codes = ("UNAUTHENTICATED", "NOT_FOUND", "RATE_LIMITED")
        at = f"{self._prefix}/auth/token"
        return [Operation("POST", at, self.log_in, TokenView, "auth", codes=codes, access=Access.OPEN)]

    async def log_in(self, request: web.Request, body: LoginBody) -> web.Response:
        """Get a token for a name and a password."""
        if not self._tokens.are_issued:
            raise ApiError("NOT_FOUND", "tokens are not issued here: no users are configured")
        address = client_of(request, self._trusted_proxies)
        self._attempts.count(address)
        self._by_account.must_be_allowed(body.username, address)
        try:
            user = await self._tokens.log_in(body.username, body.password)
        except ApiError:
            self._by_account.was_wrong(body.username)
            raise
        self._by_account.was_right(body.username, address)
        token = self._tokens.issue(user)
        view = TokenView(token, "Bearer", self._lifetime_seconds, user.user_id, user.role)
        return success(view, headers={"Cache-Control": "no-store"})
