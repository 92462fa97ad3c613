"""A TCP proxy before a database server that loses what it is told to lose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy.engine import make_url


@dataclass
class DatabaseProxy:
    """Passes everything on until `lose_answers` says how many answers to COMMIT get lost, connection and all."""

    url: str
    lose_answers: int = 0
    lost: int = 0

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        parsed = make_url(self.url)
        server, requests = await asyncio.open_connection(parsed.host, parsed.port)
        losing = asyncio.Event()

        async def forward() -> None:
            while data := await client.read(1 << 20):
                # A statement that ends in COMMIT is the last of its command: its answer is the one to lose.
                if self.lose_answers and data.endswith((b"COMMIT", b"COMMIT;END")):
                    self.lose_answers -= 1
                    losing.set()
                requests.write(data)

        async def answer() -> None:
            while data := await server.read(1 << 20):
                if losing.is_set():
                    # The server has done its work when it answers; nobody shall hear of it.
                    self.lost += 1
                    return
                answers.write(data)

        ways = [asyncio.ensure_future(forward()), asyncio.ensure_future(answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (requests, answers):
                writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[DatabaseProxy, str]]:
    """A proxy before the server of `url`, and the URL that leads through it."""
    proxy = DatabaseProxy(url)
    connections: set[asyncio.Task[None]] = set()

    def connected(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        connections.add(asyncio.ensure_future(proxy.serve(client, answers)))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy, make_url(url).set(port=port).render_as_string(hide_password=False)
    finally:
        listener.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports let go of their sockets
