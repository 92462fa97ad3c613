"""A TCP proxy before a database server that loses, cuts, swallows and changes what it is told to."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.engine import make_url

NO_BACKSLASH_ESCAPES = 0x0200
"""The status flag by which a server says so in its answers."""


@dataclass
class DatabaseProxy:
    """Passes everything on, except for what it is told.

    Attributes:
        url: the server that new connections lead to; may be changed.
        lose_answers: how many answers to COMMIT get lost, connection and all.
        lost: how many were.
        drops_flags: whether the server's word that backslashes are literal is taken out of its answers.
    """

    url: str
    lose_answers: int = 0
    lost: int = 0
    drops_flags: bool = False
    _swallowing: set["_Carried"] = field(default_factory=set)
    _open: set["_Carried"] = field(default_factory=set)

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        parsed = make_url(self.url)
        server, requests = await asyncio.open_connection(parsed.host, parsed.port)
        carried = _Carried(answers, requests)
        self._open.add(carried)
        ways = [
            asyncio.ensure_future(self._forward(carried, client)),
            asyncio.ensure_future(self._answer(carried, server)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (requests, answers):
                writer.transport.abort()
            self._open.discard(carried)
            self._swallowing.discard(carried)
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(self, carried: "_Carried", client: asyncio.StreamReader) -> None:
        while data := await client.read(1 << 20):
            # A statement that ends in COMMIT is the last of its command: its answer is the one to lose.
            if self.lose_answers and data.endswith((b"COMMIT", b"COMMIT;END")):
                self.lose_answers -= 1
                carried.losing.set()
            if carried not in self._swallowing:
                carried.requests.write(data)

    async def _answer(self, carried: "_Carried", server: asyncio.StreamReader) -> None:
        change = _FlagDropper().feed if self.drops_flags else bytes
        while data := await server.read(1 << 20):
            if carried.losing.is_set():
                # The server has done its work when it answers; nobody shall hear of it.
                self.lost += 1
                return
            if carried not in self._swallowing:
                carried.answers.write(change(data))

    def swallow(self) -> None:
        """From now on nothing passes on the connections that are open; new ones are as good as ever."""
        self._swallowing |= self._open

    def reset(self) -> None:
        """Cut the open connections, as a firewall does (RST)."""
        self._for_each_client(_reset)

    def finish(self) -> None:
        """Close the open connections in good order (FIN)."""
        self._for_each_client(lambda writer: writer.transport.close())

    def _for_each_client(self, act: "Callable[[asyncio.StreamWriter], None]") -> None:
        for carried in list(self._open):
            act(carried.answers)
            carried.requests.transport.abort()


@dataclass(frozen=True, eq=False)
class _Carried:
    """One connection that is carried: its writing ends, and whether its answers get lost from now on."""

    answers: asyncio.StreamWriter
    requests: asyncio.StreamWriter
    losing: asyncio.Event = field(default_factory=asyncio.Event)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.transport.get_extra_info("socket")
    # Closed without lingering: the other side gets a reset.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _FlagDropper:
    """Takes the flag NO_BACKSLASH_ESCAPES out of a server's packets (without CLIENT_DEPRECATE_EOF).

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_command_phase.html
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._expects: Callable[[bytearray], None] = self._login

    def feed(self, data: bytes) -> bytes:
        """More bytes of the server's; those of them that are whole packets, changed."""
        self._rest += data
        out = bytearray()
        while len(self._rest) >= 4:
            size = int.from_bytes(self._rest[:3], "little") + 4
            if len(self._rest) < size:
                break
            packet = self._rest[4:size]
            self._expects(packet)
            out += self._rest[:4] + packet
            del self._rest[:size]
        return bytes(out)

    def _login(self, packet: bytearray) -> None:
        if packet[0] == 0:
            self._answer(packet)

    def _answer(self, packet: bytearray) -> None:
        self._expects = self._answer
        if packet[0] == 0:
            at = _after_length(packet, _after_length(packet, 1))
            _drop_flag(packet, at)
        elif packet[0] != 0xFF:
            self._expects = partial(self._rows, before=self._lines)

    def _lines(self, packet: bytearray) -> None:
        if packet[0] == 0xFF:
            self._expects = self._answer
        else:
            self._rows(packet, before=self._answer)

    def _rows(self, packet: bytearray, before: "Callable[[bytearray], None]") -> None:
        if packet[0] == 0xFE and len(packet) < 9:
            _drop_flag(packet, 3)
            self._expects = before


def _after_length(packet: bytearray, at: int) -> int:
    """Behind a length-encoded integer."""
    return at + {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[at], 1)


def _drop_flag(packet: bytearray, at: int) -> None:
    flags = int.from_bytes(packet[at : at + 2], "little") & ~NO_BACKSLASH_ESCAPES
    packet[at : at + 2] = flags.to_bytes(2, "little")


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
