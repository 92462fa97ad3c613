"""HTTP calls of the load generator: ready-made bytes over kept connections, and no more parsing than it takes."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import cast

import msgspec

from benchmarks.requests import HOT_PRODUCT_ID, WAREHOUSE_ID
from benchmarks.rounds import WorkName
from development.runner import DEVELOPMENT_API_KEY

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_ORDER = {
    "user_id": 7,
    "shipping_address": "1 Main Street, Springfield",
    "payment_method": "card",
    "items": [{"product_id": HOT_PRODUCT_ID, "warehouse_id": WAREHOUSE_ID, "quantity": 1, "unit_price": 19.99}],
}


class HttpWork(msgspec.Struct, frozen=True):
    """One kind of call.

    Attributes:
        status: the one that calls are expected to end with.
    """

    path: str
    body: bytes
    status: str


HTTP_WORKS: Mapping[WorkName, HttpWork] = {
    "order": HttpWork("/api/v1/orders", json.dumps(_ORDER).encode(), "201"),
    "order-queued": HttpWork("/api/v1/orders", json.dumps(_ORDER).encode(), "202"),
    "order-refused": HttpWork("/api/v1/orders", json.dumps(_ORDER).encode(), "503"),
}


def request_bytes(work: HttpWork, target: str) -> bytes:
    """The whole request."""
    head = (
        f"POST {work.path} HTTP/1.1\r\nHost: {target}\r\nX-API-Key: {DEVELOPMENT_API_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(work.body)}\r\n\r\n"
    )
    return head.encode() + work.body


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[tuple[str, bytes]] | None = None

    async def call(self, request: bytes, timeout_seconds: float) -> tuple[str, bytes]:
        """Status and body of the answer. Raises: ConnectionError, TimeoutError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server hung up")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[str, bytes]] = loop.create_future()
        self._answered = answered
        self._received = b""
        timer = loop.call_later(timeout_seconds, self._give_up)
        try:
            self._transport.write(request)
            return await answered
        finally:
            timer.cancel()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        # uvloop's transports don't descend from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._received = received = self._received + data if self._received else data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0 or self._answered is None or self._answered.done():
            return
        length = _LENGTH.search(received, 0, head_end + 2)
        body = received[head_end + 4 :]
        if length is not None and len(body) >= int(length[1]):
            status = _STATUS.match(received)
            self._answered.set_result((status[1].decode() if status else "malformed", body))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError("the server hung up"))

    def _give_up(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(TimeoutError("no answer in time"))
            self.close()


async def connect(target: str) -> Connection:
    """A connection to host:port. Raises: OSError."""
    host, _, port = target.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
    return connection
