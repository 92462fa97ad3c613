"""The connections of a client: whose turn it is, and a fresh one in place of one that has gone silent.

A connection can die so that nobody is told: a proxy or a firewall swallows what is sent, and new connections pass.
A call that gets no answer is therefore followed by questions for a sign of life, on the same connection. If these
stay without an answer too, the connection is replaced. One that is only slow answers them, and stays.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stockwarden_client.connection import ClientSettings, client_tls, open_channel
from stockwarden_client.v1 import stock_pb2_grpc, warehouse_pb2_grpc

log = structlog.get_logger(__name__)
Metadata = list[tuple[str, str]]
CLOSE_MARGIN_SECONDS = 1.0
SILENCES_REMEMBERED_FACTOR = 4
"""So many times the time for one sign of life, an unanswered one counts."""


class Connection:
    """A channel, and what is called over it.

    Attributes:
        is_doubtful: it has not answered a call, and is being asked for a sign of life.
        silences: when it did not give one (monotonic time).
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.warehouse: warehouse_pb2_grpc.WarehouseServiceAsyncStub = warehouse_pb2_grpc.WarehouseServiceStub(channel)
        self.stock: stock_pb2_grpc.StockServiceAsyncStub = stock_pb2_grpc.StockServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.is_doubtful = False
        self.silences: deque[float] = deque()

    @property
    def is_established(self) -> bool:
        """Whether there is a connection at all; while there is none, gRPC keeps trying to make one."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY


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
        self._tasks: set[asyncio.Task[None]] = set()
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
        if not connection.is_doubtful and connection in self._connections:
            connection.is_doubtful = True
            self._start(self._examine(connection))

    async def health(self, service: str, timeout_seconds: float) -> health_pb2.HealthCheckResponse | None:
        """What the first to answer says about `service`, SERVING if any says so; None if nobody answers."""
        self._follow_tls()
        answers = await asyncio.gather(*(self._ask(one, service, timeout_seconds) for one in self._connections))
        found = [answer for answer in answers if answer is not None]
        serving = health_pb2.HealthCheckResponse.SERVING
        return next((answer for answer in found if answer.status == serving), found[0] if found else None)

    async def close(self) -> None:
        """Hang up; calls in flight end as cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(connection.channel.close() for connection in self._connections))

    async def _ask(
        self, connection: Connection, service: str, timeout_seconds: float
    ) -> health_pb2.HealthCheckResponse | None:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer: health_pb2.HealthCheckResponse = await connection.health.Check(
                request, timeout=timeout_seconds, metadata=self._metadata()
            )
        except grpc.aio.AioRpcError as error:
            if is_silence(error):
                self.note_silence(connection)
            return None
        return answer

    async def _examine(self, connection: Connection) -> None:
        """Ask for signs of life until they are there, or often enough not."""
        settings = self._settings
        try:
            # Where a name stands for several servers, each must get the chance to be silent.
            for _ in range(settings.probes * (settings.target.count(",") + 1)):
                if not await self._gives_sign(connection):
                    connection.silences.append(time.monotonic())
                if self._is_dead(connection):
                    self._replace(connection, "it has not answered")
                    return
        finally:
            connection.is_doubtful = False

    async def _gives_sign(self, connection: Connection) -> bool:
        """Whether there is any answer, whatever it says; none is asked of what is still connecting."""
        request = health_pb2.HealthCheckRequest()
        try:
            await connection.health.Check(
                request, timeout=self._settings.probe_timeout_seconds, metadata=self._metadata()
            )
        except grpc.aio.AioRpcError as error:
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
        log.warning("connection_replaced", target=self._settings.target, why=why)
        self._connections[self._connections.index(dead)] = self._open()
        self.replaced += 1
        # What is under way over it ends by its own time limit; it is then sent again, over another connection.
        self._start(dead.channel.close(self._settings.attempt_timeout_seconds + CLOSE_MARGIN_SECONDS))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_silence(error: grpc.aio.AioRpcError) -> bool:
    """Whether there was no answer in time; a server that says so has answered, and gives details."""
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata()
