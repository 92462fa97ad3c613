# Made from ../connections.py by tools/sync_client.py. Change that one.
"""The connections of a client: whose turn it is, and a fresh one in place of one that has gone silent.

A connection can die so that nobody is told: a proxy or a firewall swallows what is sent, and new connections pass.
A call that gets no answer is therefore followed by questions for a sign of life, on the same connection. If these
stay without an answer too, the connection is replaced. One that is only slow answers them, and stays.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from stockwarden_client.connection import ClientSettings, client_tls
from stockwarden_client.errors import RpcError
from stockwarden_client.options import Metadata
from stockwarden_client.sync.running import RpcFailure, Tasks, is_ready, open_channel, together
from stockwarden_client.v1 import stock_pb2_grpc, warehouse_pb2_grpc

log = logging.getLogger(__name__)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = 1
CLOSE_MARGIN_SECONDS = 1.0
SILENCES_REMEMBERED_FACTOR = 4
"""So many times the time for one sign of life, an unanswered one counts."""


class Connection:
    """A channel, and what is called over it.

    Attributes:
        is_doubtful: it has not answered a call, and is being asked for a sign of life.
        silences: when it did not give one (monotonic time).
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.warehouse: warehouse_pb2_grpc.WarehouseServiceStub = warehouse_pb2_grpc.WarehouseServiceStub(channel)
        self.stock: stock_pb2_grpc.StockServiceStub = stock_pb2_grpc.StockServiceStub(channel)
        # One field is needed of each of the health service's two messages, and these have the same on the wire. The
        # library that has them would want the newest protobuf.
        self.health: Callable[..., Int32Value] = channel.unary_unary(
            HEALTH_CHECK, request_serializer=StringValue.SerializeToString, response_deserializer=Int32Value.FromString
        )
        self.is_doubtful = False
        self.silences: deque[float] = deque()

    @property
    def is_established(self) -> bool:
        """Whether there is a connection at all; while there is none, gRPC keeps trying to make one."""
        return is_ready(self.channel)


class Connections:
    """All connections of a client.

    Args:
        metadata: goes along with the questions for a sign of life.
    """

    def __init__(self, settings: ClientSettings, metadata: Callable[[], Metadata]) -> None:
        self._settings = settings
        self._metadata = metadata
        self._tls = client_tls(settings)
        self._connections = [self._open() for _ in range(settings.connections)]
        self._turn = 0
        self._tasks = Tasks()
        self._is_closed = False
        # Where the client is one of threads, two of them may notice the same silence.
        self._changing = threading.Lock()
        self.replaced = 0

    def next(self) -> Connection:
        """The one for the next call; a doubtful one only where there is no other."""
        self._follow_tls()
        count = len(self._connections)
        self._turn += 1
        chosen = self._connections[self._turn % count]
        if not chosen.is_doubtful:
            return chosen
        others = (self._connections[(self._turn + step) % count] for step in range(1, count))
        return next((other for other in others if not other.is_doubtful), chosen)

    def note_silence(self, connection: Connection) -> None:
        """A call over it got no answer in time: find out whether only the call is to blame."""
        with self._changing:
            if connection.is_doubtful or connection not in self._connections:
                return
            connection.is_doubtful = True
        self._tasks.start(self._examine, connection)

    def is_serving(self, service: str, timeout_seconds: float) -> bool:
        """Whether anybody says that `service` is being served, over any connection."""
        self._follow_tls()

        def ask(connection: Connection) -> bool:
            return self._is_serving(connection, service, timeout_seconds)

        return any(together(ask, self._connections))

    def close(self) -> None:
        """Close the connections; calls in flight end as cancelled."""
        self._is_closed = True
        self._tasks.close()
        for connection in self._connections:
            connection.channel.close()

    def _is_serving(self, connection: Connection, service: str, timeout_seconds: float) -> bool:
        try:
            answer = connection.health(StringValue(value=service), timeout=timeout_seconds, metadata=self._metadata())
        except RpcFailure as error:
            if is_silence(error):
                self.note_silence(connection)
            return False
        return bool(answer.value == SERVING)

    def _examine(self, connection: Connection) -> None:
        """Ask for signs of life until they are there, or often enough not."""
        settings = self._settings
        try:
            # Where a name stands for several servers, each must get the chance to be silent.
            for _ in range(settings.probes * (settings.target.count(",") + 1)):
                if self._is_closed:
                    return
                if not self._gives_sign(connection):
                    connection.silences.append(time.monotonic())
                if self._is_dead(connection):
                    self._replace(connection, "it has not answered")
                    return
        finally:
            connection.is_doubtful = False

    def _gives_sign(self, connection: Connection) -> bool:
        """Whether there is any answer, whatever it says; none is asked of what is still connecting."""
        timeout = self._settings.probe_timeout_seconds
        try:
            connection.health(StringValue(), timeout=timeout, metadata=self._metadata())
        except RpcFailure as error:
            return not (is_silence(error) and connection.is_established)
        return True

    def _is_dead(self, connection: Connection) -> bool:
        oldest = time.monotonic() - SILENCES_REMEMBERED_FACTOR * self._settings.probe_timeout_seconds
        while connection.silences and connection.silences[0] < oldest:
            connection.silences.popleft()
        return len(connection.silences) >= self._settings.probes

    def _follow_tls(self) -> None:
        if self._tls is not None and self._tls.has_changed():
            for connection in tuple(self._connections):
                self._replace(connection, "the TLS files have changed")

    def _open(self) -> Connection:
        return Connection(open_channel(self._settings, self._tls.credentials if self._tls else None))

    def _replace(self, dead: Connection, why: str) -> None:
        with self._changing:
            if self._is_closed or dead not in self._connections:
                return
            log.warning("A connection to %s is replaced: %s", self._settings.target, why)
            self._connections[self._connections.index(dead)] = self._open()
            self.replaced += 1
        # What is under way over it ends by its own time limit; it is then sent again, over another connection.
        grace_seconds = self._settings.attempt_timeout_seconds + CLOSE_MARGIN_SECONDS
        self._tasks.start(self._tasks.close_later, dead.channel, grace_seconds)


def is_silence(error: RpcError) -> bool:
    """Whether there was no answer in time; a server that says so has answered, and gives details."""
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata()
