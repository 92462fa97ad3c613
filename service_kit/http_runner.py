"""aiohttp's server, with connections of another kind than its own, and paths that cost no more than they are long."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractMatchInfo
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_urldispatcher import MatchInfoError

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
        refuse_deep_paths(self.app)
        handler = made.request_handler if self._wrap is None else self._wrap(made.request_handler)
        return _Server(self._connect, handler, request_factory=made.request_factory, **self._kwargs)


def refuse_deep_paths(app: web.Application) -> None:
    """Let nothing be at a path with more slashes than the longest route of `app` has, all of which must be there.

    aiohttp cuts off a path's segments one by one, and looks for what is left: as many times as there are slashes it
    copies all that comes before. A path of 8 kB took 10 ms, before anybody was asked for a key. What is refused here
    goes the way of all that is not there.
    """
    slashes_max = max((resource.canonical.count("/") for resource in app.router.resources()), default=0)
    find = app.router.resolve

    def resolve(request: web.Request) -> Awaitable[AbstractMatchInfo]:
        # As aiohttp reads it, where an encoded slash is none.
        return _nothing() if request.rel_url.path_safe.count("/") > slashes_max else find(request)

    app.router.resolve = resolve  # type: ignore[method-assign, assignment]


async def _nothing() -> MatchInfoError:
    return MatchInfoError(web.HTTPNotFound())


class _Server(web.Server):
    def __init__(self, connect: Connect, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connect = connect

    def __call__(self) -> RequestHandler:
        return self._connect(self, loop=self._loop, **self._kwargs)
