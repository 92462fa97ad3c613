"""The connections of the HTTP server: how many there may be, and how long one may take for what it has to do.

A connection on which nobody has shown a valid key yet is unknown. Where room is needed the oldest of these has to
go, so that connections without end, whoever opens them, do not keep out those who have a key. Those who have one share
the rest: see `crowds`. A connection belongs to the key, and the person, that were shown last on it; one that a trusted
proxy has made belongs to that proxy, as it carries requests of many.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from order_gateway.http.wire.crowds import Crowd, Names
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
        key_share_max: of the connections, for one key; it tells who has too many where room is needed.
        person_share_max: the same for one person.
    """

    connections_max: int
    per_address_max: int
    header_seconds_max: float
    send_seconds_max: float
    key_share_max: float = 1
    person_share_max: float = 1
    trusted_proxies: Sequence[Network] = ()


class Connections:
    """Those that are open now.

    Args:
        note: is told whenever a bound ends a connection, with the bound's name.
    """

    def __init__(self, limits: ConnectionLimits, note: Callable[[str], None] = lambda _bound: None) -> None:
        self.limits = limits
        self.note = note
        self._shares = (limits.key_share_max, limits.person_share_max)
        self._all: Crowd[Connection] = Crowd(limits.connections_max, self._shares)
        self._by_address: dict[str, Crowd[Connection]] = {}
        self._shown: dict[Connection, None] = {}

    @property
    def open(self) -> int:
        """How many there are."""
        return self._all.size

    def enter(self, connection: "Connection", peer: str) -> bool:
        """Whether one more may come in; another one goes where it needs room."""
        is_proxys = is_trusted(peer, self.limits.trusted_proxies)
        address = client_address(peer, (), ())
        from_here = None if is_proxys else self._by_address.get(address)
        if from_here is not None and from_here.is_full:
            if not self._make_room(from_here, "connections_per_address"):
                return False
        elif self._all.is_full and not self._make_room(self._all, "connections"):
            return False
        connection.address, connection.is_proxys = address, is_proxys
        if not is_proxys and address not in self._by_address:
            self._by_address[address] = Crowd(self.limits.per_address_max, self._shares)
        for crowd in self._crowds(connection):
            crowd.enter(connection)
        return True

    def shown(self, connection: "Connection") -> None:
        """Something else was shown on it than before. It is counted where room is needed, which is seldom."""
        self._shown[connection] = None

    def leave(self, connection: "Connection") -> None:
        """It is closed, or about to be."""
        self._shown.pop(connection, None)
        for crowd in self._crowds(connection):
            crowd.leave(connection, connection.counted_as)
        if not connection.is_proxys and not self._by_address[connection.address].size:
            del self._by_address[connection.address]

    def _crowds(self, connection: "Connection") -> "tuple[Crowd[Connection], ...]":
        return (self._all,) if connection.is_proxys else (self._all, self._by_address[connection.address])

    def _make_room(self, crowd: "Crowd[Connection]", bound: str) -> bool:
        self.note(bound)
        for connection in self._shown:
            # No key has a name like that.
            names = (f"proxy/{connection.address}", None) if connection.is_proxys else connection.names
            for one in self._crowds(connection):
                one.know(connection, connection.counted_as, names)
            connection.counted_as = names
        self._shown.clear()
        goes = crowd.first_to_go(lambda one: one.is_idle, lambda one: one.is_proxys)
        if goes is not None:
            goes.cut()
        return goes is not None


class Connection(RequestHandler):
    """aiohttp's connection, with deadlines that it does not have, and known to others."""

    __slots__ = (
        "_connections", "_header_timer", "_is_in", "_send_timer", "_waits",
        "address", "counted_as", "is_proxys", "names",
    )  # fmt: skip

    def __init__(self, manager: web.Server, connections: Connections, **options: object) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]
        self._connections = connections
        self._header_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._waits: set[asyncio.Task[object]] = set()
        self._is_in = False
        self.address = ""
        self.is_proxys = False
        self.names: Names = ()
        self.counted_as: Names = ()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, and none is under way on it."""
        return self._waiter is not None and not self._waiter.done()

    def know(self, key: str, person: str | None) -> None:
        """A key of this name was shown here and is valid, and so is the token of this person."""
        names = self.names
        # Most often nothing is new.
        if not (names and names[0] == key and names[1] == person) and self._is_in:
            self.names = (key, person)
            self._connections.shown(self)

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
        elif data and self._header_timer is None and self._current_request is None and not self._messages:
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


def know_connection(request: web.Request, key: str, person: str | None) -> None:
    """A valid key of this name has come on its connection, with a person's token or without one."""
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.know(key, person)


@contextmanager
def ended_by_hang_up(request: web.Request) -> Iterator[None]:
    """Wait in here only for the client's sake: when it hangs up, the wait is cancelled."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        yield
        return
    with connection.waiting():
        yield
