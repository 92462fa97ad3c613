"""The HTTP application: what wraps every request, and where the routes are put together."""

import re
import uuid
from collections.abc import Iterable, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.access import ApiKey
from order_gateway.answers import Answers
from order_gateway.http.auth import auth_middleware
from order_gateway.http.errors import CORRELATION_ID, REQUEST_ID, error_middleware
from order_gateway.http.idempotency import idempotency_middleware

PREFIX = "/api/v1"
_ID = re.compile(r"[!-~]{1,64}")


def make_app(
    routes: Iterable[web.RouteDef],
    keys: Sequence[ApiKey],
    answers: Answers,
    *,
    body_size_max_bytes: int,
    observers: Sequence[Middleware] = (),
) -> web.Application:
    """The application; `routes` are the handlers, without what is common to all of them.

    Args:
        observers: see every request once it has its ids, and its answer as the client gets it.
    """
    middlewares: list[Middleware] = [
        ids_middleware,
        *observers,
        error_middleware,
        auth_middleware(keys),
        idempotency_middleware(answers),
        # Once more, so that the answers to keep are those that the client sees.
        error_middleware,
    ]
    app = web.Application(middlewares=middlewares, client_max_size=body_size_max_bytes)
    app.add_routes(routes)
    return app


@web.middleware
async def ids_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request its ids, put them on every log line and into the answer."""
    request[REQUEST_ID] = _id(request.headers.get("X-Request-ID"))
    request[CORRELATION_ID] = _id(request.headers.get("X-Correlation-ID"))
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request[REQUEST_ID], correlation_id=request[CORRELATION_ID])
    response = await handler(request)
    response.headers["X-Request-ID"] = request[REQUEST_ID]
    response.headers["X-Correlation-ID"] = request[CORRELATION_ID]
    return response


def _id(given: str | None) -> str:
    """The caller's id where it can be passed on as it is, otherwise a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex
