"""aiohttp's server, with connections of another kind than its own."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Connect = Callable[..., RequestHandler]
"""Makes the connection of one client, of the server and aiohttp's options."""


class ConnectionRunner(web.AppRunner):
    """aiohttp's runner of an application.

    Args:
        connect: makes each connection.
        wrap: what each request passes through before the application.
        options: aiohttp's.
    """

    def __init__(
        self, app: web.Application, connect: Connect, wrap: Callable[[Handle], Handle] | None = None, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._connect = connect
        self._wrap = wrap

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = made.request_handler if self._wrap is None else self._wrap(made.request_handler)
        return _Server(self._connect, handler, request_factory=made.request_factory, **self._kwargs)


class _Server(web.Server):
    def __init__(self, connect: Connect, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connect = connect

    def __call__(self) -> RequestHandler:
        return self._connect(self, loop=self._loop, **self._kwargs)
