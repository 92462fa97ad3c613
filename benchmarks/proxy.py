"""A wire to a database far away: `python -m benchmarks.proxy LISTEN_PORT DATABASE_PORT ROUND_TRIP_MS`.

Every byte is passed on, in order, half a round trip after it came. It runs on a select() loop: that one waits for
fractions of a millisecond, while epoll (and so uvloop) rounds every wait up to whole ones. What timers are late by,
it learns and takes off, so that the wire is as long as it was asked to be and no longer.
"""

import asyncio
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

HELD_BYTES_MAX = 16 * 2**20
"""What one direction of a connection may have under way before reading pauses."""
LEARNING_RATE = 0.05
"""How much of one arrival's lateness is believed."""


class Delay:
    """How long to wait for an arrival that shall be `seconds` away."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lateness = 0.0

    def timer_seconds(self) -> float:
        """What to ask of a timer."""
        return max(0.0, self.seconds - self._lateness)

    def learn(self, late_by_seconds: float) -> None:
        """Take note of how late (or early) an arrival was."""
        correction = self._lateness + LEARNING_RATE * late_by_seconds
        self._lateness = min(max(0.0, correction), self.seconds / 2)


class Wire(asyncio.Protocol):
    """One end of a connection; what it receives it hands to the other end, late."""

    def __init__(self, delay: Delay) -> None:
        self._delay = delay
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._bytes_under_way = 0
        self.other: Wire | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport and hand out what arrived before it was there."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self._early:
            transport.write(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        """Send the data on its way."""
        self._bytes_under_way += len(data)
        if self._bytes_under_way > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()
        self._send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the other end hang up, after all that is under way."""
        self._send(None)

    def write(self, data: bytes) -> None:
        """Put data that has arrived on this end's socket."""
        if self.transport is None:
            self._early.append(data)
        else:
            self.transport.write(data)

    def _send(self, data: bytes | None) -> None:
        self._under_way.append((time.monotonic() + self._delay.seconds, data))
        asyncio.get_running_loop().call_later(self._delay.timer_seconds(), self._arrive)

    def _arrive(self) -> None:
        due, data = self._under_way.popleft()
        self._delay.learn(time.monotonic() - due)
        if self.other is None:
            return
        if data is None:
            if self.other.transport is not None:
                self.other.transport.close()
            return
        self._bytes_under_way -= len(data)
        if self._bytes_under_way <= HELD_BYTES_MAX and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        self.other.write(data)


async def run(listen_port: int, database_port: int, round_trip_ms: float) -> None:
    """Pass connections on to the database until SIGTERM."""
    loop = asyncio.get_running_loop()
    delay = Delay(round_trip_ms / 2000)
    connecting: set[asyncio.Task[None]] = set()

    def keep(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        connecting.add(task)
        task.add_done_callback(connecting.discard)

    def accept() -> Wire:
        near, far = Wire(delay), Wire(delay)
        near.other, far.other = far, near

        async def connect() -> None:
            try:
                await loop.create_connection(lambda: far, "127.0.0.1", database_port)
            except OSError as error:
                print(f"the database on port {database_port} can't be reached: {error}", file=sys.stderr)
                if near.transport is not None:
                    near.transport.close()

        keep(connect())
        return near

    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(accept, "127.0.0.1", listen_port)
    async with server:
        await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
