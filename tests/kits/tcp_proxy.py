"""A TCP proxy between two parts of the system that delays what passes, or swallows it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16


@dataclass
class TcpProxy:
    """Passes on what comes, `delay_seconds` later; connections in `swallowed` stay open, and nothing passes.

    Attributes:
        passing: connections that pass.
        accepted: how many there have been.
    """

    host: str
    port: int
    delay_seconds: float = 0
    swallowed: set[int] = field(default_factory=set)
    passing: set[int] = field(default_factory=set)
    accepted: int = 0
    target: str = ""

    def swallow(self) -> int:
        """From now on nothing passes on the connections that there are; how many these are. New ones pass."""
        swallowed = len(self.passing)
        self.swallowed |= self.passing
        self.passing.clear()
        return swallowed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self.accepted += 1
        number = self.accepted
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        self.passing.add(number)
        ways = [
            asyncio.ensure_future(self._carry(reader, far_writer, number)),
            asyncio.ensure_future(self._carry(far_reader, writer, number)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.passing.discard(number)
            for way in ways:
                way.cancel()
            for end in (writer, far_writer):
                end.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK_BYTES):
            if number in self.swallowed:
                continue
            if self.delay_seconds:
                loop.call_later(self.delay_seconds, self._arrive, writer, data, number)
            else:
                writer.write(data)

    def _arrive(self, writer: asyncio.StreamWriter, data: bytes, number: int) -> None:
        if number not in self.swallowed and not writer.is_closing():
            writer.write(data)


@contextlib.asynccontextmanager
async def proxied(target: str, delay_seconds: float = 0) -> AsyncIterator[TcpProxy]:
    """A proxy before host:port; its own is in `target`."""
    host, _, port = target.rpartition(":")
    proxy = TcpProxy(host, int(port), delay_seconds)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.ensure_future(proxy.serve(reader, writer)))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.target = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports let go of their sockets
