"""A small HTTP server for metrics alone, for services that speak no HTTP otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from service_kit.answer_headers import securing
from service_kit.http_runner import ConnectionRunner
from service_kit.metrics import Metrics
from service_kit.ports import address_problem, split_address

CONNECTIONS_MAX = 50
"""Open at the same time; where one more comes, the oldest goes."""
CONNECTION_SECONDS_MAX = 60.0
"""How long one lasts, whatever it is used for."""


@asynccontextmanager
async def exposed(metrics: Metrics, setting: str, listen: str, server: str) -> AsyncIterator[int]:
    """Answer GET /metrics on `listen` (host:port; port 0: any free one) for the time of a `with`; gives the port.

    Args:
        setting: what the address was set by.
        server: what it calls itself in its answers.

    Raises: NotStarted, if the address can't be had.
    """

    async def show(request: web.Request) -> web.Response:
        body, content_type = metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    secure = securing(server)

    async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        secure(response.headers)

    app = web.Application()
    app.add_routes([web.get("/metrics", show)])
    app.on_response_prepare.append(add_headers)
    runner = ConnectionRunner(app, partial(_Handler, secure=secure), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, *split_address(listen)).start()
        except OSError as error:
            raise address_problem(setting, listen, error) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class _Handler(RequestHandler):
    """A connection that can't be kept open forever, and of whose errors nothing that was sent gets into the log."""

    __slots__ = ("_end", "_others", "_secure")

    def __init__(self, manager: web.Server, secure: Callable[[CIMultiDict[str]], None], **options: object) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]
        self._secure = secure
        self._others = manager
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._end = self._loop.call_later(CONNECTION_SECONDS_MAX, transport.abort)  # type: ignore[attr-defined]
        opened = [one.transport for one in self._others.connections if one.transport and not one.transport.is_closing()]
        if len(opened) > CONNECTIONS_MAX:
            opened[0].abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = web.Response(status=status)
        self._secure(response.headers)
        response.force_close()
        return response
