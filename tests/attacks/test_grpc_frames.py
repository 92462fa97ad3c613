"""Broken and odd HTTP/2 and gRPC on a real socket: whatever is sent, the warehouse goes on serving everybody else."""

import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest

from development.service_process import NO_PROXY
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import stock_pb2_grpc
from tests.fuzzing.grpc_requests import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GO_AWAY,
    HEADERS,
    PING,
    PREFACE,
    PUSH,
    RESET,
    SETTINGS,
    WINDOW,
    frame,
    packed,
)
from tests.kits.attacked import Attacked, resident_mib
from tests.kits.secrets_used import secret

pytestmark = [pytest.mark.sql, pytest.mark.e2e, pytest.mark.usefixtures("unsurprised", "serving")]
RESERVE = "/warehouse.v1.WarehouseService/Reserve"
ANSWER_SECONDS_MAX = 0.3
GROWTH_MIB_MAX = 64
BOMB_BYTES = 300_000_000


@pytest.fixture
def serving(shop: Attacked) -> Iterator[None]:
    """A customer who was connected before is served after it, and so is a new one."""
    request = stock.GetInventoryRequest(product_id=1, warehouse_id=1)
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        customer = stock_pb2_grpc.StockServiceStub(channel)
        assert customer.GetInventory(request, timeout=5).stock_level.on_hand
        yield
        assert customer.GetInventory(request, timeout=5).stock_level.on_hand
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        assert stock_pb2_grpc.StockServiceStub(channel).GetInventory(request, timeout=5).stock_level.on_hand


def _say(shop: Attacked, said: bytes) -> bytes:
    """What comes back within a moment."""
    heard = b""
    with socket.create_connection(("127.0.0.1", int(shop.target.rpartition(":")[2]))) as connection:
        connection.settimeout(ANSWER_SECONDS_MAX)
        try:
            connection.sendall(said)
            while part := connection.recv(65536):
                heard += part
        except (TimeoutError, ConnectionError):
            pass
    return heard


def _head(changes: Mapping[str, str] | None = None, *, without: str = "") -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": RESERVE,
        ":authority": "warehouse",
        "te": "trailers",
        "content-type": "application/grpc",
        **(changes or {}),
    }
    headers.pop(without, None)
    return frame(HEADERS, END_HEADERS, 1, packed(headers))


def _call(head: bytes, message: bytes = b"\0\0\0\0\0") -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0, b"") + head + frame(DATA, END_STREAM, 1, message)


NOT_UTF_8 = (b"\xb0\xb5", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80")


@pytest.mark.parametrize("odd", NOT_UTF_8)
@pytest.mark.parametrize(
    "header", [":path", ":authority", "x-api-key", "x-correlation-id", "user-agent", "grpc-encoding"]
)
def test_no_header_that_is_no_utf_8_ends_the_server(shop: Attacked, header: str, odd: bytes) -> None:
    before = RESERVE if header == ":path" else ""
    for value in (odd, odd + odd, b"a" + odd):
        mark = "\0" * len(value)
        _say(shop, _call(_head({header: before + mark}).replace(mark.encode(), value, 1)))
    assert repr(odd)[1:-1] not in shop.logs()


NEVER_TO_BE_LOGGED = secret("what-is-only-in-broken-frames")


@pytest.mark.parametrize(
    "broken",
    [
        frame(GO_AWAY, 0, 0, b"\0\0\0\0\0\0\0\1" + NEVER_TO_BE_LOGGED.encode()),
        frame(HEADERS, END_HEADERS, 1, packed({":path": RESERVE, f"x\nx-api-key {NEVER_TO_BE_LOGGED}": ""})),
        frame(HEADERS, END_HEADERS, 1, packed({":method": NEVER_TO_BE_LOGGED, "grpc-encoding": NEVER_TO_BE_LOGGED})),
    ],
    ids=["goaway", "name", "value"],
)
def test_nothing_of_broken_frames_is_written_by_grpcs_core(shop: Attacked, broken: bytes) -> None:
    before = Counter(shop.logs().splitlines())
    _say(shop, PREFACE + frame(SETTINGS, 0, 0, b"") + broken)
    said = Counter(shop.logs().splitlines()) - before
    assert not [line for line in said if NEVER_TO_BE_LOGGED in line]
    assert all(line.startswith("{") for line in said)


PATHS = (
    "",
    "/",
    "//",
    "/a",
    "/a/b/c",
    "warehouse.v1.WarehouseService/Reserve",
    RESERVE + "/",
    RESERVE.lower(),
    "/\x00",
    "/" + "a" * 7000,
    "*",
)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:20]))
def test_no_path_ends_the_server(shop: Attacked, path: str) -> None:
    _say(shop, _call(_head({":path": path})))


def test_an_unknown_method_is_told_so(shop: Attacked) -> None:
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        for path in ("/warehouse.v1.WarehouseService/Steal", "/x.y/Z", "/warehouse.v1.WarehouseService/R\u00e9serve"):
            call: Any = channel.unary_unary(path)
            with pytest.raises(grpc.RpcError) as no:
                call(b"", timeout=5)
            assert no.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", [":method", ":scheme", ":path", ":authority", "te", "content-type"])
def test_no_missing_header_ends_the_server(shop: Attacked, name: str) -> None:
    _say(shop, _call(_head(without=name)))


CHANGES: tuple[dict[str, str], ...] = (
    {":method": "GET"},
    {":method": ""},
    {":scheme": "gopher"},
    {"content-type": "application/json"},
    {"content-type": ""},
    {"te": "none"},
    {"grpc-timeout": "1n"},
    {"grpc-timeout": "99999999H"},
    {"grpc-timeout": "-1S"},
    {"grpc-timeout": "x"},
    {"grpc-encoding": "snappy"},
    {"grpc-encoding": "gzip"},
    {"grpc-accept-encoding": "," * 1000},
    {"x-api-key": "k" * 7000},
    {"x": "y" * 60_000},
    {"grpc-status-details-bin": "!!!!"},
    {"X-Upper": "y"},
    {"connection": "close"},
    {":path": RESERVE, ":status": "200"},
    {f"x-{number}": "y" for number in range(500)},
)


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: repr(changes)[:40])
def test_no_header_ends_the_server(shop: Attacked, changes: dict[str, str]) -> None:
    _say(shop, _call(_head(changes)))


def _message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


MESSAGES = (
    b"",
    b"\0",
    b"\0\0\0",
    _message(b"\xff\xff\xff"),
    _message(b"abc", length=2**32 - 1),
    _message(b"abc", length=1),
    _message(b"abc", length=0),
    _message(b"", flag=1),
    _message(b"\x1f\x8b\x08", flag=1),
    _message(b"abc", flag=2),
    _message(b"abc", flag=255),
    _message(b"\x0a\xff\xff\xff\xff\x0f"),
    _message(b"\x1a\x00" * 8000),
    _message(b"\x0b" * 5000),
    _message(b"a") + _message(b"b"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: repr(message[:12]))
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_no_message_ends_the_server(shop: Attacked, message: bytes, encoding: str) -> None:
    for path in (RESERVE, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"):
        _say(shop, _call(_head({"grpc-encoding": encoding, ":path": path}), message))
    reflect = _head(
        {":path": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "grpc-encoding": encoding}
    )
    _say(shop, _call(reflect, message))


FRAMES = (
    frame(DATA, END_STREAM, 0, b"x"),
    frame(DATA, END_STREAM, 77, b"x"),
    frame(HEADERS, END_HEADERS, 0, b""),
    frame(HEADERS, END_HEADERS, 2, packed({":path": "/"})),
    frame(HEADERS, 0, 1, packed({":path": "/"})) + frame(PING, 0, 0, b"12345678"),
    frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 5000,
    frame(HEADERS, END_HEADERS, 1, b"\xff" * 100),
    frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
    frame(SETTINGS, 0, 0, b"12345"),
    frame(SETTINGS, 1, 0, b"123456"),
    frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**32 - 1)),
    frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 0) * 2000),
    frame(WINDOW, 0, 0, struct.pack(">I", 0)),
    frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 2,
    frame(PUSH, END_HEADERS, 1, b"\0\0\0\2"),
    frame(PING, 0, 0, b"12345678") * 2000,
    frame(PING, 0, 1, b"1"),
    frame(RESET, 0, 1, b"\0\0\0\0"),
    frame(GO_AWAY, 0, 0, b""),
    frame(99, 255, 1, b"x" * 1000),
    b"\xff\xff\xff" + frame(DATA, 0, 1, b"")[3:] + b"x" * 20_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 500,
)


@pytest.mark.parametrize("broken", FRAMES, ids=lambda broken: repr(broken[:14]))
def test_no_frame_ends_the_server(shop: Attacked, broken: bytes) -> None:
    _say(shop, PREFACE + frame(SETTINGS, 0, 0, b"") + broken)
    _say(shop, _call(_head()) + broken)
    _say(shop, broken)


def test_a_compressed_bomb_is_not_unpacked(shop: Attacked) -> None:
    before = resident_mib(shop.warehouse.pid)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with grpc.insecure_channel(shop.target, NO_PROXY, compression=compression) as channel:
            call: Any = channel.unary_unary(RESERVE)
            with pytest.raises(grpc.RpcError) as no:
                call(b"\0" * BOMB_BYTES, timeout=30)
            assert no.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_mib(shop.warehouse.pid) - before < GROWTH_MIB_MAX
    twice = zlib.compress(zlib.compress(b"\0" * 1_000_000))
    _say(shop, _call(_head({"grpc-encoding": "deflate"}), _message(twice, flag=1)))


@pytest.mark.parametrize("path", [RESERVE, "/no.such/Method"])
def test_streams_opened_and_reset_leave_nothing(shop: Attacked, path: str) -> None:
    """Also no line in the log, when an answer can't be sent any more."""
    said = PREFACE + frame(SETTINGS, 0, 0, b"")
    head = _head({":path": path})
    for number in range(2000):
        stream = (2 * number + 1).to_bytes(4, "big")
        said += head[:5] + stream + head[9:] + frame(RESET, 0, 2 * number + 1, b"\0\0\0\x08")
    before = resident_mib(shop.warehouse.pid)
    _say(shop, said)
    assert resident_mib(shop.warehouse.pid) - before < GROWTH_MIB_MAX
