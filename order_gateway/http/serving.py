"""Serving the application, so that even what can't be understood as HTTP is answered in the envelope."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from order_gateway.http.connections import Connection, ConnectionLimits, Connections
from order_gateway.http.errors import REQUEST_ID, ApiError, failure
from service_kit.unique_ids import random_hex


class EnvelopeRunner(web.AppRunner):
    """aiohttp's runner, with an error page of this service's kind, and bounds for connections.

    Attributes:
        connections: those that are open.

    Args:
        limits: of the connections.
        note: see Connections.
        options: aiohttp's.
    """

    def __init__(
        self, app: web.Application, limits: ConnectionLimits, note: Callable[[str], None], **options: Any
    ) -> None:
        super().__init__(app, **options)
        self.connections = Connections(limits, note)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self.connections, made.request_handler, request_factory=made.request_factory, **self._kwargs)


class _Server(web.Server):
    def __init__(self, connections: Connections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = connections

    def __call__(self) -> Connection:
        return _Handler(self, self._places, loop=self._loop, **self._kwargs)


class _Handler(Connection):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in the envelope what went wrong outside the application."""
        # It logs, and it raises where an answer has begun.
        super().handle_error(request, status, exc, message)
        code = "INTERNAL" if status >= 500 else "INVALID_ARGUMENT"
        text = "something went wrong here" if status >= 500 else "this can't be understood as an HTTP request"
        request[REQUEST_ID] = random_hex(16)
        response = failure(request, ApiError(code, text))
        response.headers["X-Request-ID"] = request[REQUEST_ID]
        response.force_close()
        return response
