"""How often something may come in under a name, and from where browsers may call."""

import math
from collections import OrderedDict
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiolimiter import AsyncLimiter

from order_gateway.http.errors import ApiError

NAMES_MAX = 10_000
CORS_METHODS = "GET, POST, PUT, PATCH, DELETE"
CORS_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-API-Key, X-Correlation-ID, "
    "X-Request-ID, traceparent"
)
CORS_EXPOSED = "ETag, Idempotent-Replayed, Location, Retry-After, X-Correlation-ID, X-Request-ID"


class RateLimit:
    """A leaky bucket for each name: up to a period's worth at once, then one by one.

    Args:
        amount: how many in `seconds`.
    """

    def __init__(self, amount: float, seconds: float) -> None:
        self._amount = amount
        self._seconds = seconds
        self._buckets: OrderedDict[str, AsyncLimiter] = OrderedDict()

    async def count(self, name: str) -> None:
        """Take note of one. Raises: ApiError, if it is one too many."""
        bucket = self._bucket(name)
        self.must_have_room(name)
        await bucket.acquire()

    def must_have_room(self, name: str) -> None:
        """Raises: ApiError, if the next one would be one too many; nothing is counted."""
        bucket = self._buckets.get(name)
        if bucket is not None and not bucket.has_capacity():
            wait = math.ceil(self._seconds / self._amount)
            message = f"more than {self._amount:g} requests in {self._seconds:g} s; wait a little"
            raise ApiError("RATE_LIMITED", message, (), {"Retry-After": str(wait)})

    def _bucket(self, name: str) -> AsyncLimiter:
        bucket = self._buckets.get(name)
        if bucket is None:
            # A bucket must hold a whole one, however slowly it empties.
            size = max(self._amount, 1)
            bucket = self._buckets[name] = AsyncLimiter(size, self._seconds * size / self._amount)
            if len(self._buckets) > NAMES_MAX:
                self._buckets.popitem(last=False)
        else:
            # Those that were not asked for longest go first: they are empty.
            self._buckets.move_to_end(name)
        return bucket


def cors_middleware(max_age_seconds: int) -> Middleware:
    """Answer what browsers ask before they send a request to another origin."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            headers = {
                "Access-Control-Allow-Methods": CORS_METHODS,
                "Access-Control-Allow-Headers": CORS_HEADERS,
                "Access-Control-Max-Age": str(max_age_seconds),
            }
            return web.Response(status=204, headers=headers)
        return await handler(request)

    return check


def cors_headers(request: web.Request, origins: Collection[str]) -> dict[str, str]:
    """What tells a browser that this page may read the answer; nothing for a page from elsewhere."""
    origin = request.headers.get("Origin")
    if origin is None or not origins:
        return {}
    if (origin not in origins and "*" not in origins) or not origin.isascii():
        return {"Vary": "Origin"}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": CORS_EXPOSED,
        "Vary": "Origin",
    }
