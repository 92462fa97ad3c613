"""Serving the application, so that even what can't be understood as HTTP is answered in the envelope."""

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from order_gateway.http.errors import REQUEST_ID, ApiError, failure
from order_gateway.http.expecting import expecting
from service_kit.unique_ids import random_hex


class EnvelopeRunner(web.AppRunner):
    """aiohttp's runner, with an error page of this service's kind."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(expecting(made.request_handler), request_factory=made.request_factory, **self._kwargs)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


class _Handler(RequestHandler):
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
