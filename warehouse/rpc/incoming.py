"""What comes in before it is a message: how long it may be, and that nobody unknown has it taken apart.

To parse a message costs much more than its bytes: four megabytes of empty lines become millions of objects.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from warehouse.validation import InvalidRequest

PARSED_AT_ONCE_BYTES = 4096
"""Shorter ones cost next to nothing; longer ones are parsed only once it is known who calls."""


class Unread:
    """Bytes that are not parsed yet, and perhaps never will be."""

    def __init__(self, data: bytes, parse: Callable[[bytes], Message], bytes_max: int) -> None:
        self._data = data
        self._parse = parse
        self._bytes_max = bytes_max

    def read(self) -> Any:
        """The message. Raises: InvalidRequest."""
        length = len(self._data)
        if length > self._bytes_max:
            problem = f"has {length:,} bytes, at most {self._bytes_max:,} are read by this method"
            raise InvalidRequest([("request", problem)])
        try:
            return self._parse(self._data)
        except DecodeError as error:
            raise InvalidRequest([("request", "is not a message of this method: its bytes can't be parsed")]) from error


def reader(parse: Callable[[bytes], Message], bytes_max: int) -> Callable[[bytes], Message | Unread]:
    """For gRPC, as a method's deserializer: it never fails, since gRPC knows no answer for that but a traceback."""

    def read(data: bytes) -> Message | Unread:
        if len(data) <= PARSED_AT_ONCE_BYTES:
            try:
                return parse(data)
            except DecodeError:
                pass
        return Unread(data, parse, bytes_max)

    return read


def bounded(handlers: Mapping[str, Any], bytes_max: Callable[[str], int]) -> dict[str, Any]:
    """The handlers of a service, by their methods' names, with readers of ours.

    Args:
        bytes_max: how long a request of a method may be.
    """
    return {
        name: handler._replace(request_deserializer=reader(handler.request_deserializer, bytes_max(name)))
        for name, handler in handlers.items()
    }
