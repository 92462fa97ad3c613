"""What looks at a request before anything is done for it, and refuses it or lets it pass."""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

Guard = Callable[[web.Request], None]
"""Raises: ApiError or TooOften, for what may not come in."""


def guards_middleware(guards: Sequence[Guard]) -> Middleware:
    """Let only requests through that all guards let pass, asked one after the other.

    It is no coroutine, because each one around a handler costs every request about as much as what it does.
    """

    @web.middleware
    def check(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        for guard in guards:
            guard(request)
        return handler(request)

    return check
