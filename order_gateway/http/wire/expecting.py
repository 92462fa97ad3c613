"""The header Expect (RFC 9110, 10.1.1): 100-continue, or the request is refused like any other that is wrong.

aiohttp's own refusal repeats what was sent before any middleware sees it, and fails where that can't be written.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from order_gateway.http.wire.answer_headers import secure
from order_gateway.http.wire.errors import REQUEST_ID, failure, gone
from order_gateway.http.wire.validating import invalid
from service_kit.unique_ids import random_hex

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def expecting(handler: RequestHandler) -> RequestHandler:
    """A handler that gets no request which expects what nobody here can do."""

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        expected = request.headers.get("Expect", "")
        return expect(request, expected) if expected else handler(request)

    async def expect(request: web.BaseRequest, expected: str) -> web.StreamResponse:
        if expected.lower() == "100-continue":
            try:
                return await handler(request)
            except ConnectionError:
                # Between its head and our "100 Continue" the client has hung up.
                return gone()
        request[REQUEST_ID] = random_hex(16)
        response = failure(request, invalid("Expect", "can only be 100-continue"))
        response.headers["X-Request-ID"] = request[REQUEST_ID]
        secure(response.headers)
        response.force_close()
        return response

    return handle
