"""The connections of the HTTP server: how many there may be, and how long one may take for what it has to do.

A connection on which nobody has shown a valid key yet is unknown. Where room is needed the oldest of these has to
go, so that connections without end, whoever opens them, do not keep out those who have a key.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from service_kit.client_addresses import Network, client_address, is_trusted

HANG_UP = "the client hung up"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of the connections.

    Attributes:
        connections_max: at the same time.
        per_address_max: from one address, unless that is a proxy's of `trusted_proxies`.
        header_seconds_max: from a connection's or a header's begin to the header's end.
        send_seconds_max: how long a client may take nothing of an answer that it is sent.
    """

    connections_max: int
    per_address_max: int
    header_seconds_max: float
    send_seconds_max: float
    trusted_proxies: Sequence[Network] = ()


class Connections:
    """Those that are open now.

    Args:
        note: is told whenever a bound ends a connection, with the bound's name.
    """

    def __init__(self, limits: ConnectionLimits, note: Callable[[str], None] = lambda _bound: None) -> None:
        self.limits = limits
        self.note = note
        self.open = 0
        self._unknown: OrderedDict[Connection, None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[Connection, None]] = {}

    def enter(self, connection: "Connection", peer: str) -> bool:
        """Whether one more may come in; the oldest unknown one goes where it needs room."""
        address = None if is_trusted(peer, self.limits.trusted_proxies) else client_address(peer, (), ())
        from_here = None if address is None else self._by_address.get(address)
        if from_here is not None and len(from_here) >= self.limits.per_address_max:
            self.note("connections_per_address")
            if not self._make_room(from_here):
                return False
        elif self.open >= self.limits.connections_max:
            self.note("connections")
            if not self._make_room(self._unknown):
                return False
        connection.address = address
        self.open += 1
        self._unknown[connection] = None
        if address is not None:
            self._by_address.setdefault(address, OrderedDict())[connection] = None
        return True

    def know(self, connection: "Connection") -> None:
        """Somebody has shown a valid key on it."""
        self._unknown.pop(connection, None)

    def leave(self, connection: "Connection") -> None:
        """It is closed, or about to be."""
        self.open -= 1
        self._unknown.pop(connection, None)
        if connection.address is not None:
            from_here = self._by_address[connection.address]
            del from_here[connection]
            if not from_here:
                del self._by_address[connection.address]

    def _make_room(self, among: "OrderedDict[Connection, None]") -> bool:
        oldest = next((connection for connection in among if not connection.is_known), None)
        if oldest is None:
            return False
        oldest.cut()
        return True


class Connection(RequestHandler):
    """aiohttp's connection, with deadlines that it does not have, and known to others."""

    __slots__ = ("_connections", "_header_timer", "_is_in", "_send_timer", "_waits", "address", "is_known")

    def __init__(self, manager: web.Server, connections: Connections, **options: object) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]
        self._connections = connections
        self._header_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._waits: set[asyncio.Task[object]] = set()
        self._is_in = False
        self.address: str | None = None
        self.is_known = False

    def know(self) -> None:
        """Somebody has shown a valid key here."""
        self.is_known = True
        self._connections.know(self)

    def cut(self) -> None:
        """Close it now, whatever is under way."""
        self._leave()
        if self.transport is not None:
            # First, as a transport that is closed still waits for a client that takes nothing.
            self.transport.abort()
        self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client comes in, if it may."""
        peer = transport.get_extra_info("peername")
        if not self._connections.enter(self, str(peer[0]) if peer else ""):
            self._force_close = True
            transport.abort()  # type: ignore[attr-defined]
            return
        self._is_in = True
        super().connection_made(transport)
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        """Something came; what begins a header must also end it in time."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif data and self._header_timer is None and self._is_idle:
            self._expect_header()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        seconds = self._connections.limits.send_seconds_max
        self._send_timer = self._loop.call_later(seconds, self._end, "send_seconds")

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._drop_send_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over: whoever only waits for this client's sake ends now."""
        self._leave()
        super().connection_lost(exc)
        for task in self._waits:
            task.cancel(HANG_UP)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For as long as the current task is in here the end of the connection cancels it."""
        task = asyncio.current_task()
        assert task is not None
        if self.transport is None:
            raise asyncio.CancelledError(HANG_UP)
        self._waits.add(task)
        try:
            yield
        finally:
            self._waits.discard(task)

    @property
    def _is_idle(self) -> bool:
        return self._current_request is None and not self._messages

    def _expect_header(self) -> None:
        seconds = self._connections.limits.header_seconds_max
        self._header_timer = self._loop.call_later(seconds, self._end, "header_seconds")

    def _end(self, bound: str) -> None:
        self._connections.note(bound)
        self.cut()

    def _drop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _leave(self) -> None:
        if self._is_in:
            self._is_in = False
            self._connections.leave(self)
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._drop_send_timer()


def know_connection(request: web.Request) -> None:
    """Its connection has shown a valid key."""
    connection = request.protocol
    if isinstance(connection, Connection) and not connection.is_known:
        connection.know()


@contextmanager
def ended_by_hang_up(request: web.Request) -> Iterator[None]:
    """Wait in here only for the client's sake: when it hangs up, the wait is cancelled."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        yield
        return
    with connection.waiting():
        yield
