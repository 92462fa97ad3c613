"""A server that speaks just enough of MySQL's protocol to be logged in to, and keeps all that it is sent."""

import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pymysql.constants import CLIENT

SALT = b"abcdefgh", b"ijklmnopqrst"
CAPABILITIES = int(CLIENT.CAPABILITIES | CLIENT.PLUGIN_AUTH | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA)
PATIENCE_SECONDS = 5


def switch_to(plugin: str) -> bytes:
    """The packet that asks for another way to log in."""
    return b"\xfe" + plugin.encode() + b"\0" + b"".join(SALT) + b"\0"


def more(data: bytes) -> bytes:
    """A packet in the middle of a login."""
    return b"\x01" + data


FULL_LOGIN = more(b"\x04")
"""caching_sha2_password: the password itself, please."""


class HostileDatabase:
    """Listens on a port of 127.0.0.1.

    Args:
        plugin: the way to log in that it announces.
        answers: the packets that it sends, one for each that comes after the greeting.
        certificate: with its key; it offers TLS then.
        capabilities: what it says that it can do, but for TLS.

    Attributes:
        packets: what it was sent, decrypted.
        plain: what went over the wire before any TLS.
    """

    def __init__(
        self,
        plugin: str,
        answers: Sequence[bytes] = (),
        certificate: tuple[Path, Path] | None = None,
        capabilities: int = CAPABILITIES,
    ) -> None:
        self._plugin, self._answers, self._capabilities = plugin, answers, capabilities & ~int(CLIENT.SSL)
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)
            self._capabilities |= int(CLIENT.SSL)
        self.packets: list[bytes] = []
        self.plain: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return
            made.settimeout(PATIENCE_SECONDS)
            try:
                self._talk(made)
            except (OSError, EOFError):
                continue  # it was hung up on, as it should be
            finally:
                made.close()

    def _talk(self, plain: socket.socket) -> None:
        peer, number = plain, 0
        _send(peer, number, self._greeting())
        if self._tls is not None:
            number, packet = _receive(peer)
            self.plain.append(packet)
            peer = self._tls.wrap_socket(plain, server_side=True)
        with peer:
            for answer in self._answers:
                number, packet = _receive(peer)
                self._note(packet)
                _send(peer, number + 1, answer)
            self._note(_receive(peer)[1])

    def _note(self, packet: bytes) -> None:
        self.packets.append(packet)
        if self._tls is None:
            self.plain.append(packet)

    def _greeting(self) -> bytes:
        low, high = self._capabilities & 0xFFFF, self._capabilities >> 16
        return b"".join(
            (
                *(b"\x0a", b"8.4.0\0", struct.pack("<I", 1), SALT[0], b"\0"),
                struct.pack("<HBHH", low, 45, 2, high),
                *(bytes([21]), bytes(10), SALT[1], b"\0", self._plugin.encode(), b"\0"),
            )
        )


def _send(peer: socket.socket, number: int, payload: bytes) -> None:
    peer.sendall(struct.pack("<I", len(payload))[:3] + bytes([number % 256]) + payload)


def _receive(peer: socket.socket) -> tuple[int, bytes]:
    header = _exactly(peer, 4)
    return header[3], _exactly(peer, int.from_bytes(header[:3], "little"))


def _exactly(peer: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = peer.recv(size - len(got))
        if not part:
            raise EOFError
        got += part
    return got
