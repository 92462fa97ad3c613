"""Who may call: API keys, known only by their hashes."""

import hashlib
import hmac
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.access import ApiKey
from order_gateway.http.errors import ApiError

CALLER: web.RequestKey[ApiKey] = web.RequestKey("caller", ApiKey)
OPEN_PATHS = frozenset(
    {"/health", "/ready", "/metrics", "/api/v1/health", "/api/v1/openapi.json", "/api/v1/auth/token"}
)
OPEN_PREFIXES = ("/swagger/",)


def auth_middleware(keys: Sequence[ApiKey]) -> Middleware:
    """Let only callers with one of `keys` through, and remember which."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIXES):
            return await handler(request)
        caller = find_key(keys, request.headers.get("X-API-Key", ""))
        if caller is None:
            raise ApiError("UNAUTHENTICATED", "send a valid API key in the header X-API-Key")
        request[CALLER] = caller
        structlog.contextvars.bind_contextvars(caller=caller.name)
        return await handler(request)

    return check


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The configured key that was presented; takes as long for a wrong one as for a right one."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found
