"""A small HTTP server for metrics alone, for services that speak no HTTP otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from service_kit.metrics import Metrics
from service_kit.ports import address_problem, split_address


@asynccontextmanager
async def exposed(metrics: Metrics, setting: str, listen: str) -> AsyncIterator[int]:
    """Answer GET /metrics on `listen` (host:port; port 0: any free one) for the time of a `with`; gives the port.

    Args:
        setting: what the address was set by.

    Raises: NotStarted, if the address can't be had.
    """

    async def show(request: web.Request) -> web.Response:
        body, content_type = metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/metrics", show)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, *split_address(listen)).start()
        except OSError as error:
            raise address_problem(setting, listen, error) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
