"""Calls of the warehouse: messages made from the descriptors, mutated bytes of those, and raw frames of HTTP/2."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from stockwarden_client.v1 import stock_pb2, warehouse_pb2
from tests.fuzzing.door import shown
from tests.fuzzing.odd import NUMBERS, TEXTS, mutated

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GO_AWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
CONTENT_TYPES = ("application/grpc",) * 6 + (
    "application/grpc+proto",
    "application/json",
    "text/html",
    "",
    "application/grpc-web",
)
ENCODINGS = ("gzip", "deflate", "identity", "snappy", "")
OPEN_TO_ALL: Mapping[str, type[Message]] = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest,
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest,
}
"""Methods that need no key."""
_MUCH = 2**24
_INITIAL_WINDOW_SIZE = 4
WIDE = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _MUCH)
"""Settings that let all answers come."""


@dataclass(frozen=True)
class Call:
    """A call of a method.

    Attributes:
        path: `/service/Method`.
        metadata: keys among it.
    """

    path: str
    data: bytes
    metadata: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Said:
    """What a broken or hostile client says on one connection.

    Attributes:
        calls: by stream.
        is_mutated: so that who called what is uncertain.
    """

    data: bytes
    calls: Mapping[int, Call]
    is_mutated: bool


def methods() -> Mapping[str, type[Message]]:
    """The path of every method, and what its requests are."""
    return {
        f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
        for module in (warehouse_pb2, stock_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


class GrpcRequests:
    """Makes requests without end, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._methods = list(methods().items())

    def next(self) -> Call:
        """One more; its answer is one message."""
        random = self._random
        path, kind = random.choice(self._methods)
        data = self._filled(kind, 0).SerializeToString()
        if random.random() < 0.25:
            data = mutated(random, data)
        if random.random() < 0.02:
            data = random.choice((b"\x0a\x00", b"\x1a\x00", b"\x00", b"\xff")) * random.choice((10, 1000, 100_000))
        metadata = [*shown(random)]
        if random.random() < 0.2:
            name = random.choice(("x-api-key", "x-correlation-id", "x-actor", "traceparent", "x-other"))
            metadata.append((name, "".join(one for one in random.choice(TEXTS)[:200] if " " <= one <= "~").strip()))
        random.shuffle(metadata)
        return Call(path, data, metadata)

    def frames(self) -> Said:
        """What a broken or hostile client says on a connection of its own."""
        random = self._random
        preface = PREFACE if random.random() < 0.97 else mutated(random, PREFACE)
        settings = WIDE if random.random() < 0.8 else random.randbytes(random.choice((6, 12, 5)))
        parts = [preface, frame(SETTINGS, 0, 0, settings), frame(WINDOW, 0, 0, struct.pack(">I", _MUCH))]
        calls = {2 * number + 1: self._any() for number in range(random.choice((1, 3, 10)))}
        for stream, call in calls.items():
            parts.extend(self._stream(stream, call))
        said = b"".join(parts)
        is_mutated = random.random() < 0.2
        return Said(mutated(random, said) if is_mutated else said, calls, is_mutated or preface != PREFACE)

    def _any(self) -> Call:
        random, call = self._random, self.next()
        if random.random() < 0.05:
            path, kind = random.choice(list(OPEN_TO_ALL.items()))
            return Call(path, self._filled(kind, 0).SerializeToString(), call.metadata)
        if random.random() < 0.05:
            return Call(random.choice(("/", "", "/a", "/warehouse.v1.WarehouseService/")), call.data, call.metadata)
        return call

    def _stream(self, stream: int, call: Call) -> Iterator[bytes]:
        random, data = self._random, call.data
        headers = {
            ":method": "POST" if random.random() < 0.97 else random.choice(("GET", "PUT", "")),
            ":scheme": "http",
            ":path": call.path,
            ":authority": "warehouse",
            "te": "trailers",
            "content-type": random.choice(CONTENT_TYPES),
        }
        if random.random() < 0.3:
            headers["grpc-encoding"] = random.choice(ENCODINGS)
        if random.random() < 0.1:
            headers["grpc-timeout"] = random.choice(("1n", "0S", "99999999H", "-1S", "1", "", "1e9S", "100m"))
        yield frame(HEADERS, END_HEADERS, stream, packed(headers, call.metadata))
        length = len(data) if random.random() < 0.9 else random.choice((0, 1, len(data) + 1, 2**31, 2**32 - 1))
        prefix = bytes([random.choice((0, 0, 0, 0, 1, 2, 255))]) + length.to_bytes(4, "big")
        message = (prefix + data)[:16_384] if random.random() < 0.9 else (prefix + data)[: random.randrange(1, 6)]
        yield frame(DATA, END_STREAM if random.random() < 0.9 else 0, stream, message)
        if random.random() < 0.1:
            kind = random.choice((PRIORITY, RESET, SETTINGS, PUSH, PING, GO_AWAY, WINDOW, CONTINUATION, 77))
            yield frame(
                kind,
                random.randrange(256),
                random.choice((0, stream, 2, 2**31 - 1)),
                random.randbytes(random.choice((0, 4, 5, 8))),
            )

    def _filled(self, kind: type[Message], depth: int) -> Message:
        made = kind()
        for field in kind.DESCRIPTOR.fields:
            if self._random.random() < 0.85:
                self._fill(made, field, depth)
        return made

    def _fill(self, made: Message, field: Any, depth: int) -> None:
        random = self._random
        if field.is_repeated:
            count = random.choice((1, 1, 2, 3, 0, 101, 1001)) if depth == 0 else random.choice((1, 2, 0))
            if field.message_type is not None:
                getattr(made, field.name).extend(
                    self._message(field.message_type, depth) for _ in range(min(count, 101))
                )
            else:
                getattr(made, field.name).extend(self._scalar(field) for _ in range(count))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(self._message(field.message_type, depth))
        else:
            setattr(made, field.name, self._scalar(field))

    def _message(self, kind: Descriptor, depth: int) -> Message:
        return self._filled(GetMessageClass(kind), depth + 1)

    def _scalar(self, field: Any) -> Any:
        random = self._random
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return random.random() < 0.5
            case FieldDescriptor.CPPTYPE_STRING:
                return f"f{random.randrange(10_000)}" if random.random() < 0.85 else random.choice(TEXTS)
            case FieldDescriptor.CPPTYPE_ENUM:
                return random.choice((0, 1, 2, 3, 9))
        high = 2**31 - 1 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 2**63 - 1
        if random.random() < 0.85:
            return random.choice((1, 1, 2, 3))
        return max(-high - 1, min(high, int(random.choice(NUMBERS))))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def packed(headers: Mapping[str, str], more: Sequence[tuple[str, str]] = ()) -> bytes:
    """Headers as literals that nobody has to remember (RFC 7541, 6.2.2); `more` may have a name several times."""
    fields = (*headers.items(), *more)
    return b"".join(b"\x00" + _text(name.encode()) + _text(value.encode()) for name, value in fields)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    left, length = len(data) - 127, b"\x7f"
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    return length + bytes([left]) + data
