"""What a gRPC server answers on a connection of HTTP/2: the headers of each block, without flow control or state.

`hpack` decompresses; a whole client library (h2) would refuse what comes for streams that it has not opened itself.
"""

from collections.abc import Iterator, Mapping

import hpack

HEADERS, CONTINUATION = 1, 9
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
_HEAD_BYTES = 9
_TABLE_BYTES_MAX = 2**32 - 1
"""We may have asked for any, in settings made by chance."""
_LIST_BYTES_MAX = 2**20


SAID_BY_THE_CORE = (
    "Compression bit set but no encoding configured",
    "Decompression failed due to ",
    "Error parsing '",
    "Failed parsing HTTP/2 (",
    "Illegal header key: ",
    "Metadata keys cannot ",
)
"""How the messages begin with which gRPC's core answers INTERNAL, by its own specification, to what is no gRPC.

No line of ours runs then, and none of our messages begins so: a fault of ours is still found. Anything else is, too.
"""


class Unreadable(Exception):
    """What the server says is no HTTP/2."""


class FrameAnswers:
    """Reads what a server says on one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=_LIST_BYTES_MAX)
        self._decoder.max_allowed_table_size = _TABLE_BYTES_MAX
        self._rest = b""
        self._block = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, Mapping[str, str]]]:
        """The blocks of headers that are whole now: the stream and its headers. Raises: Unreadable."""
        self._rest += data
        while len(self._rest) >= _HEAD_BYTES:
            length = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < _HEAD_BYTES + length:
                return
            kind, flags = self._rest[3], self._rest[4]
            stream = int.from_bytes(self._rest[5:9], "big") & 2**31 - 1
            payload = self._rest[_HEAD_BYTES : _HEAD_BYTES + length]
            self._rest = self._rest[_HEAD_BYTES + length :]
            if kind in (HEADERS, CONTINUATION):
                self._block += _fragment(flags, payload) if kind == HEADERS else payload
                if flags & END_HEADERS:
                    block, self._block = self._block, b""
                    yield stream, self._headers(block)

    def _headers(self, block: bytes) -> Mapping[str, str]:
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise Unreadable(f"{error!r} in a block of headers: {block[:300]!r}") from error
        return {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in fields}


def _fragment(flags: int, payload: bytes) -> bytes:
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        begin += 5
    return payload[begin:end]
