"""The HTTP application: what wraps every request, and where the routes are put together."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from order_gateway.access import AccessSettings
from order_gateway.http.framework.documents import DocumentRoutes
from order_gateway.http.framework.openapi import document
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.auth import auth_guard, is_open
from order_gateway.http.guards.cors import cors_headers, cors_middleware
from order_gateway.http.guards.guard import guards_middleware
from order_gateway.http.guards.host_check import host_guard
from order_gateway.http.guards.idempotency import idempotency_middleware
from order_gateway.http.guards.keys import Keyring
from order_gateway.http.guards.reloading import reload_on_change
from order_gateway.http.guards.slots import Slots, slots_middleware
from order_gateway.http.guards.tokens import Tokens
from order_gateway.http.login import LoginRoutes
from order_gateway.http.wire.answer_headers import secure
from order_gateway.http.wire.errors import CORRELATION_ID, ERROR_CODE, REQUEST_ID, error_middleware
from order_gateway.storage.idempotency import IdempotencyStore
from service_kit.attempt_limit import AttemptLimit
from service_kit.background import Background
from service_kit.logging import begin_call
from service_kit.rates import RateLimit
from service_kit.unique_ids import random_hex

PREFIX = "/api/v1"
SECONDS_PER_MINUTE = 60
_ID = re.compile(r"[!-~]{1,64}")


def make_app(
    operations: Iterable[Operation],
    answers: IdempotencyStore,
    settings: AccessSettings,
    *,
    body_size_max_bytes: int,
    routes: Iterable[web.RouteDef] = (),
    observers: Sequence[Middleware] = (),
    background: Background | None = None,
    slots: Slots | None = None,
) -> web.Application:
    """The application.

    Args:
        operations: what the API can do; tokens and its own document are added here.
        routes: what is not part of the API's document.
        background: what goes on there is watched.
        observers: see every request once it has its ids, and its answer as the client gets it.
        slots: how much may be under way at the same time; those of `settings` unless given.
    """
    keyring, tokens = Keyring(settings), Tokens(settings)
    attempts = RateLimit(settings.logins_per_minute_max, SECONDS_PER_MINUTE)
    by_account = AttemptLimit(settings.wrong_passwords_per_minute_max)
    login = LoginRoutes(tokens, attempts, by_account, settings.token_lifetime_seconds, PREFIX, settings.trusted_proxies)
    slots = slots or Slots(settings)
    every = [*operations, *login.operations()]
    middlewares: list[Middleware] = [
        entrance_middleware(slots),
        *observers,
        *([cors_middleware(settings.cors_max_age_seconds)] if settings.cors_origins else []),
        error_middleware,
        guards_middleware(
            [
                *([host_guard(settings.host_names)] if settings.profile == "development" else []),
                # Who calls is known before anything is taken: strangers can't fill what belongs to those with a key.
                auth_guard(keyring, tokens, AttemptLimit(settings.wrong_keys_per_minute_max), settings.trusted_proxies),
            ]
        ),
        slots_middleware(slots),
        idempotency_middleware(answers),
    ]
    app = web.Application(middlewares=middlewares, client_max_size=body_size_max_bytes)
    app.add_routes([*(operation.route() for operation in every), *routes])
    app.add_routes(DocumentRoutes(document(every, PREFIX), PREFIX).routes())
    app.on_response_prepare.append(_common_headers(settings.cors_origins))
    files = [file for file in (keyring.file, tokens.file) if file is not None]
    app.cleanup_ctx.append(reload_on_change(files, settings.api_keys_check_seconds, background))
    return app


def entrance_middleware(slots: Slots) -> Middleware:
    """Give every request its ids; refuse what is open to all and asked for too often, before it costs a log line."""

    @web.middleware
    def enter(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        give_ids(request)
        return slots.enter_open(request, handler) if is_open(request.path) else handler(request)

    return enter


def give_ids(request: web.Request) -> None:
    """Give a request its ids, and put them on every log line."""
    request[REQUEST_ID] = request_id = _id(request.headers.get("X-Request-ID"))
    request[CORRELATION_ID] = correlation_id = _id(request.headers.get("X-Correlation-ID"))
    request[ERROR_CODE] = ""
    begin_call(request_id=request_id, correlation_id=correlation_id)


def _common_headers(origins: Sequence[str]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What every answer carries; a stream sends its headers before its handler ends."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Request-ID"] = request.get(REQUEST_ID, "")
        response.headers["X-Correlation-ID"] = request.get(CORRELATION_ID, "")
        secure(response.headers)
        if origins:
            response.headers.update(cors_headers(request, origins))

    return add


def _id(given: str | None) -> str:
    """The caller's id where it can be passed on as it is, otherwise a new one."""
    return given if given is not None and _ID.fullmatch(given) else random_hex(16)
