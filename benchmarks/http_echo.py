"""The upper bound of the order gateway: a bare aiohttp server that answers with the body it was sent.

`python -m benchmarks.http_echo HOST:PORT`
"""

import asyncio
import signal
import sys

import uvloop
from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    """What came."""
    return web.Response(body=await request.read(), status=201, content_type="application/json")


async def serve(address: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    app = web.Application()
    app.add_routes([web.post("/api/v1/orders", echo)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
