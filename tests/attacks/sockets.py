"""Bare connections to a server on this machine, for what no client library would send."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

SECONDS_MAX = 20.0
"""What any of these waits for at most."""


def connect(port: int, receive_buffer: int | None = None, source: str = "") -> socket.socket:
    """A connection; `receive_buffer` bytes at most are taken unasked.

    Args:
        source: the address that it comes from.
    """
    made = socket.socket()
    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(SECONDS_MAX)
    if source:
        made.bind((source, 0))
    made.connect(("127.0.0.1", port))
    return made


@contextmanager
def connections(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Many connections, each of which has sent `first`."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(stack.enter_context(connect(port)))
            if first:
                send(made[-1], first)
        yield made


def send(connection: socket.socket, data: bytes) -> bool:
    """Whether there was still somebody to send to."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has hung up; what it had said before is read and forgotten."""
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(SECONDS_MAX)
    return True


def seconds_until_ended(opened: Sequence[socket.socket], drip: bytes = b"") -> float:
    """How long until all are ended; `drip` is sent on each of them meanwhile. Raises: AssertionError, if too long."""
    started, left = time.monotonic(), list(opened)
    while left:
        assert time.monotonic() - started < SECONDS_MAX, f"{len(left)} of {len(opened)} connections are still open"
        left = [one for one in left if not is_ended(one)]
        for one in left if drip else ():
            send(one, drip)
        time.sleep(0.05)
    return time.monotonic() - started


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def head_of(connection: socket.socket) -> bytes:
    """What comes up to the end of a header, or of the connection."""
    got = b""
    while b"\r\n\r\n" not in got and (part := connection.recv(65_536)):
        got += part
    return got


def status_of(head: bytes) -> int:
    """The status of an HTTP answer."""
    return int(head.split(b" ", 2)[1])
