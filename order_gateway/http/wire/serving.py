"""Serving the application, so that even what can't be understood as HTTP is answered in the envelope."""

from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from order_gateway.http.wire.answer_headers import secure
from order_gateway.http.wire.connections import Connection, ConnectionLimits, Connections
from order_gateway.http.wire.errors import REQUEST_ID, ApiError, failure
from order_gateway.http.wire.expecting import expecting
from service_kit.http_runner import ConnectionRunner
from service_kit.unique_ids import random_hex

log = structlog.get_logger(__name__)


class EnvelopeRunner(ConnectionRunner):
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
        self.connections = Connections(limits, note)
        super().__init__(app, self._connection, expecting, **options)

    def _connection(self, server: web.Server, **options: Any) -> Connection:
        return _Handler(server, self.connections, **options)


class _Handler(Connection):
    __slots__ = ()

    def log_exception(self, *arguments: Any, **more: Any) -> None:
        """As the library does, but for a body that can't be unpacked: it has its 400, and is read on after that."""
        if not isinstance(more.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*arguments, **more)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in the envelope what went wrong outside the application.

        Raises: ConnectionError, where an answer has begun.
        """
        request[REQUEST_ID] = random_hex(16)
        if status >= 500:
            code, text = "INTERNAL", "something went wrong here"
            log.error("request_failed_outside", request_id=request[REQUEST_ID], exc_info=exc)
        else:
            code, text = "INVALID_ARGUMENT", "this can't be understood as an HTTP request"
            # Not what it says: it repeats the line that was not understood, which may hold a key.
            log.info("request_not_understood", request_id=request[REQUEST_ID], why=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = failure(request, ApiError(code, text))
        response.headers["X-Request-ID"] = request[REQUEST_ID]
        secure(response.headers)
        response.force_close()
        return response
