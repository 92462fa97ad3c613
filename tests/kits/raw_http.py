"""Bytes to a server and back, where a client library would be too polite."""

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came.

    Attributes:
        headers: in order, names in lower case.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for other, value in self.headers if other == name.lower()]


def exchange(base_url: str, sent: bytes) -> RawAnswer:
    """Send bytes to the server of an URL on a connection of their own; the first answer to them."""
    place = urlsplit(base_url)
    with socket.create_connection((place.hostname or "", place.port or 80), PATIENCE_SECONDS) as peer:
        peer.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            part = peer.recv(65536)
            if not part:
                break
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        length = int(dict(headers).get("content-length", "0"))
        while len(body) < length and (part := peer.recv(65536)):
            body += part
    return RawAnswer(int(first.split()[1]), headers, body)


def request(method: str, path: str, *headers: str, body: str = "", host: str | None = "127.0.0.1") -> bytes:
    """A request with just these header lines, and its own for Host, unless that is None, and for the body."""
    lines = [f"{method} {path} HTTP/1.1", *headers]
    if host is not None:
        lines.append(f"Host: {host}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return ("\r\n".join([*lines, "Connection: close", "", ""]) + body).encode("latin-1")
