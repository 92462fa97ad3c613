"""From where browsers may call."""

from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

CORS_METHODS = "GET, POST, PUT, PATCH, DELETE"
CORS_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-API-Key, X-Correlation-ID, "
    "X-Request-ID, traceparent"
)
CORS_EXPOSED = "ETag, Idempotent-Replayed, Location, Retry-After, X-Correlation-ID, X-Request-ID"


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
