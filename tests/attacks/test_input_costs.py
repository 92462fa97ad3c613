"""What reads input takes time that grows no faster than the input: twice as long must not cost four times as much.

Compared is the processor time of the server's process as a ratio: 2 is linear, 4 is
quadratic; it must be less than that once in a few tries. What can't be long is sent often.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest

from development.service_process import NO_PROXY, ServiceProcess
from order_gateway.payments.signing import sign
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.conftest import MakeDatabase
from tests.kits.attacked import ORDERS, WISH, Attacked, attacked, cpu_seconds, http, sent, statuses
from tests.kits.processes import Processes
from tests.kits.secrets_used import hashed, key_of

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
TRIES = 3
RATIO_MAX = 3.0
CPU_SECONDS_MAX = 1.0
"""For one request of the greatest length. Before, the worst one took eleven."""
NOTICEABLE_SECONDS = 0.05
"""Of processor time. What costs less may be as uneven as it likes."""
MILLION_SECONDS_MAX = 0.2
"""For a call with a million elements; most of it goes by for the bytes' way through gRPC. Before, it was 1.7."""
BODY_BYTES = 400_000
MESSAGE_BYTES = 240_000
HEAD_BYTES = 3_600
HEADS = 40
"""Requests with long heads that are sent one after the other, to be able to measure them."""


def filled(before: str, part: str, after: str) -> Callable[[int], bytes]:
    """A text of about so many bytes; in `part`, {} is a number that is another one each time."""

    def make(size: int) -> bytes:
        count = max(size // len(part.format(100_000)), 1)
        return (before + ",".join(part.format(100_000 + number) for number in range(count)) + after).encode()

    return make


def repeated(before: str, part: str, after: str) -> Callable[[int], bytes]:
    return lambda size: (before + part * (size // len(part)) + after).encode()


BODIES: Mapping[str, Callable[[int], bytes]] = {
    "unknown fields": filled("{", '"u{}":1', "}"),
    "many fields, the last one twice": filled("{", '"u{}":1', ',"z":1,"z":1}'),
    "the same field": filled("{", '"u":{}', "}"),
    "unknown fields of items": filled('{"items":[{', '"u{}":1', "}]}"),
    "items": filled('{"items":[', '{{"product_id":{}}}', "]}"),
    "items with unknown fields": filled('{"items":[', '{{"a":1,"b":2,"c{}":3}}', "]}"),
    "empty objects": repeated('{"items":[', "{},", "{}]}"),
    "a long whole number": repeated('{"user_id":', "9", "}"),
    "a long fraction": repeated('{"user_id":1.', "9", "}"),
    "a long exponent": repeated('{"user_id":1e', "9", "}"),
    "a price of many digits": repeated('{"items":[{"unit_price":"', "1", '"}]}'),
    "many exponents": filled('{"items":[', "1e{}", "]}"),
    "a long text": repeated('{"shipping_address":"', "a", '"}'),
    "a long text of spaces": repeated('{"payment_method":"', " ", '"}'),
    "a long text with control characters": repeated('{"shipping_address":"', "\\u0001", '"}'),
    "escapes": repeated('{"user_id":"', "\\u00e9", '"}'),
    "lone surrogates": repeated('{"user_id":"', "\\ud800", '"}'),
    "a long name": repeated('{"', "n", '":1}'),
    "a name of lone surrogates": repeated('{"', "\\udfff", '":1}'),
    "deep lists": repeated('{"items":', "[", ""),
    "deep objects": repeated("", '{"a":', ""),
    "spaces": repeated("{", " ", "}"),
    "a date": repeated('{"order_id":"1","reserve_until":"2026-11-20T12:00:00.', "1", 'Z"}'),
    "no JSON": repeated("", "\\", ""),
    "backslashes in a text": repeated('{"user_id":"', "\\\\", '"}'),
}
ADDRESSES = ("/api/v1/orders", "/api/v1/auth/token")
"""One that asks for a key, and one that is open to everybody."""


@pytest.mark.parametrize("name", BODIES)
def test_bodies(shop: Attacked, name: str) -> None:
    for path in ADDRESSES:

        def ask(size: int, path: str = path) -> None:
            [status] = statuses(shop.send(http("POST", path, BODIES[name](size))))
            assert 400 <= status < 500, status

        assert_linear(shop.gateway.pid, ask, BODY_BYTES, f"{name} to {path}")


NEWS = b'{"type":"payment.updated","data":{"order_id":"1"}}'
CALLBACK_SECRET = key_of("callbacks of the provider")
WRONG_KEYS_MAX = 5
TRUSTING = {
    "ORDERS_TRUSTED_PROXIES": '["127.0.0.0/8"]',
    "ORDERS_WRONG_KEYS_PER_MINUTE_MAX": str(WRONG_KEYS_MAX),
    "ORDERS_CORS_ORIGINS": '["http://a.example"]',
    "ORDERS_PAYMENTS__PROVIDER": "http",
    "ORDERS_PAYMENTS__HTTP__URL": "http://127.0.0.1:9/v1",
    "ORDERS_PAYMENTS__HTTP__API_KEY": key_of("provider"),
    "ORDERS_PAYMENTS__HTTP__CALLBACK_SECRET": CALLBACK_SECRET,
}
"""So that all headers are read: addresses behind proxies, origins, signatures of the provider."""


@pytest.fixture(scope="module")
def trusting(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Services that look at every header, with one order."""
    processes = Processes(tmp_path_factory.mktemp("trusting"))
    with attacked(processes, make_database("warehouse"), make_database("orders"), TRUSTING) as made:
        assert statuses(made.send(http("POST", ORDERS, json.dumps(WISH).encode()))) == [201]
        yield made


def text_of(part: str, between: str = "") -> Callable[[int], str]:
    def make(size: int) -> str:
        return between.join(part.format(number) for number in range(size // (len(part.format(1000)) + len(between))))

    return make


HEADERS: Mapping[str, tuple[str, Callable[[int], str]]] = {
    "cookies": ("Cookie", text_of("c{}=1", "; ")),
    "one odd cookie": ("Cookie", text_of('="\\')),
    "tags": ("If-None-Match", text_of('"{}"', ", ")),
    "tags that never end": ("If-None-Match", text_of('W/"')),
    "hops": ("X-Forwarded-For", text_of("10.0.0.{}", ", ")),
    "trusted hops": ("X-Forwarded-For", text_of("127.0.0.1", ",")),
    "colons": ("X-Forwarded-For", text_of("[:")),
    "types": ("Accept", text_of("a/b;q=0.{}", ",")),
    "a content type": ("Content-Type", text_of(';a="')),
    "languages": ("Accept-Language", text_of("en;q=0.{}", ",")),
    "a key": ("X-API-Key", text_of("k")),
    "a token": ("Authorization", lambda size: f"Bearer {'a' * size}"),
    "dots of a token": ("Authorization", lambda size: f"Bearer {'.' * size}"),
    "a nested token": ("Authorization", lambda size: f"Bearer {'W1tb' * (size // 4)}.e30.AAAA"),
    "signatures": ("webhook-signature", text_of("v1,AAAA", " ")),
    "an idempotency key": ("Idempotency-Key", text_of("i")),
    "a trace": ("traceparent", text_of("00-")),
    "a request id": ("X-Request-ID", text_of("r")),
    "an event id": ("Last-Event-ID", text_of("9")),
    "a range": ("Range", lambda size: "bytes=" + text_of("{}-", ",")(size)),
    "an origin": ("Origin", text_of("http://a.", "")),
    "asked-for headers": ("Access-Control-Request-Headers", text_of("x{}", ", ")),
    "a host": ("Host", text_of("a.")),
    "brackets of a host": ("Host", text_of("[:")),
    "the id of news": ("webhook-id", text_of("m")),
    "the time of news": ("webhook-timestamp", text_of("1")),
    "signatures that are long": ("webhook-signature", lambda size: "v1," + "A" * size),
}


READ_AT: Mapping[str, tuple[str, str, bytes]] = {
    "Content-Type": ("POST", "/api/v1/orders", b"{}"),
    "Idempotency-Key": ("POST", "/api/v1/orders", b"{}"),
    "Last-Event-ID": ("GET", "/api/v1/orders/1/events", b""),
    "Accept": ("GET", "/metrics", b""),
    "Range": ("GET", "/swagger/start.js", b""),
    "Access-Control-Request-Headers": ("OPTIONS", "/api/v1/orders", b""),
    **{f"webhook-{name}": ("POST", "/api/v1/payments/callbacks", NEWS) for name in ("id", "timestamp", "signature")},
}
"""Where a header is read by itself; all others are sent to where callers, addresses, tags and traces are looked at."""


@pytest.mark.parametrize("name", HEADERS)
def test_headers(trusting: Attacked, name: str) -> None:
    header, make = HEADERS[name]
    method, path, body = READ_AT.get(header, ("GET", "/api/v1/products", b""))

    def ask(size: int) -> None:
        news = {"webhook-id": "m", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
        given = {"Origin": "http://a.example", **news, header: make(size)}
        one = http(method, path, body, given, last=False)
        end = http("GET", "/metrics", b"", {header: make(size)})
        answered = statuses(trusting.send(one * HEADS + end))
        # Where a stream or a preflight is refused, the connection may be closed behind it.
        assert answered
        assert all(status < 500 for status in answered), answered

    assert_linear(trusting.gateway.pid, ask, HEAD_BYTES, name)


def test_headers_are_sent_to_where_they_are_read(trusting: Attacked) -> None:
    """What each answers to a header that it reads is not what it answers without one."""
    for header, odd in (
        ("Content-Type", "text/odd"),
        ("Idempotency-Key", "k" * 200),
        ("Last-Event-ID", "odd"),
        ("webhook-signature", ""),
        ("webhook-timestamp", "0"),
    ):
        method, path, body = READ_AT[header]
        now = {"webhook-id": "m", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
        [status], text = statuses(said := trusting.send(http(method, path, body, {**now, header: odd}))), said.decode()
        assert 400 <= status < 500
        assert header in text, (header, text)
    spoofed = {"X-API-Key": "wrong", "X-Forwarded-For": "203.0.113.9"}
    tried = [
        statuses(trusting.send(http("GET", "/api/v1/products", b"", spoofed)))[0] for _ in range(WRONG_KEYS_MAX + 1)
    ]
    assert tried == [401] * WRONG_KEYS_MAX + [429]
    assert statuses(trusting.send(http("GET", "/api/v1/products", b"", {**spoofed, "X-Forwarded-For": "::9"}))) == [401]


NEWS_BODIES: Mapping[str, Callable[[int], bytes]] = {
    **BODIES,
    "an order id of many digits": repeated('{"type":"payment.updated","data":{"order_id":"', "9", '"}}'),
    "unknown fields of the news": filled('{"type":"payment.updated","data":{"order_id":"1",', '"u{}":1', "}}"),
    "unknown lists in the news": filled('{"type":"payment.updated","data":{"order_id":"1","u":[', "[{}]", "]}}"),
    "a long type": repeated('{"type":"', "a.", '","data":{"order_id":"1"}}'),
}


@pytest.mark.parametrize("is_signed", [False, True], ids=["a stranger", "the provider"])
@pytest.mark.parametrize("name", NEWS_BODIES)
def test_bodies_of_callbacks(trusting: Attacked, name: str, *, is_signed: bool) -> None:
    def ask(size: int) -> None:
        body, now = NEWS_BODIES[name](size), int(time.time())
        signature = sign(CALLBACK_SECRET, "m", now, body) if is_signed else "v1,AAAA"
        given = {"webhook-id": "m", "webhook-timestamp": str(now), "webhook-signature": signature, "X-API-Key": ""}
        [status] = statuses(trusting.send(http("POST", "/api/v1/payments/callbacks", body, given)))
        assert status < 500, status
        assert status >= 400 or is_signed

    assert_linear(trusting.gateway.pid, ask, BODY_BYTES, f"{name}, signed: {is_signed}")


QUERIES: Mapping[str, Callable[[int], str]] = {
    "unknown parameters": text_of("u{}=1", "&"),
    "the same parameter": text_of("page=1", "&"),
    "parameters without a value": text_of("&"),
    "escapes": lambda size: "user_id=" + "%C3%A9" * (size // 6),
    "broken escapes": lambda size: "user_id=" + "%" * size,
    "a long number": lambda size: "page=" + "1" * size,
    "a long date": lambda size: "start_date=2026-11-20T12:00:00." + "1" * size,
    "semicolons": lambda size: "a=" + ";" * size,
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries(shop: Attacked, name: str) -> None:
    def ask(size: int) -> None:
        one = http("GET", f"/api/v1/orders?{QUERIES[name](size)}", last=False)
        answered = statuses(shop.send(one * HEADS + http("GET", "/health")))
        assert len(answered) == HEADS + 1
        assert all(status < 500 for status in answered), answered

    assert_linear(shop.gateway.pid, ask, HEAD_BYTES, name)


def path_of(before: str, part: str) -> Callable[[int], str]:
    return lambda size: before + part * (size // len(part))


PATHS: Mapping[str, Callable[[int], str]] = {
    "segments": path_of("", "/a"),
    "slashes": path_of("", "/"),
    "slashes of the page": path_of("/swagger", "/"),
    "segments of the API": path_of("/api/v1/orders", "/a"),
    "segments of a server": path_of("http://shop", "/a"),
    "a dot and a dot": path_of("", "/.."),
    "encoded slashes": path_of("/", "%2F"),
    "both kinds of slashes": path_of("", "/%2F"),
    "escapes": path_of("/api/v1/orders/", "%C3%A9"),
    "encoded percents": path_of("/swagger/", "%25"),
    "broken escapes": path_of("/swagger/", "%"),
    "one segment": path_of("/api/v1/orders/", "9"),
    "semicolons": path_of("/", ";"),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}], ids=["known", "a stranger"])
def test_paths(shop: Attacked, name: str, headers: Mapping[str, str]) -> None:
    def ask(size: int) -> None:
        answered = paths_answered(shop.port, PATHS[name](size), "/health", headers)
        # Whoever shows no key is soon taken for somebody who guesses; paths are looked at before that.
        assert set(answered[:-1]) <= {400, 401, 404, 429}, answered
        assert answered[-1] == 200

    assert_linear(shop.gateway.pid, ask, HEAD_BYTES, name)


@pytest.mark.parametrize("name", PATHS)
def test_paths_of_the_warehouses_metrics(shop: Attacked, name: str) -> None:
    def ask(size: int) -> None:
        assert paths_answered(shop.metrics_port, PATHS[name](size), "/metrics", {})[-1] == 200

    assert_linear(shop.warehouse.pid, ask, HEAD_BYTES, name)


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_the_warehouses_metrics(shop: Attacked, name: str) -> None:
    header, make = HEADERS[name]

    def ask(size: int) -> None:
        answered = paths_answered(shop.metrics_port, "/metrics", "/metrics", {header: make(size)})
        assert set(answered) == {200}, answered

    assert_linear(shop.warehouse.pid, ask, HEAD_BYTES, name)


def paths_answered(port: int, path: str, last: str, headers: Mapping[str, str]) -> list[int]:
    """The statuses of HEADS requests for a path, and of one for another path behind them, on one connection."""
    one = http("GET", path, b"", headers, last=False)
    answered = re.findall(rb"HTTP/1.1 ([0-9]{3}) ", sent(port, one * HEADS + http("GET", last, b"", headers)))
    assert len(answered) == HEADS + 1
    return [int(status) for status in answered]


LINE = pb.Line()
MESSAGES: Mapping[str, tuple[str, Callable[[int], bytes]]] = {
    "empty lines": ("WarehouseService/Reserve", lambda size: b"\x1a\x00" * (size // 2)),
    "empty lines to look at": ("WarehouseService/CheckStock", lambda size: b"\x0a\x00" * (size // 2)),
    "empty lines to sell": ("WarehouseService/Commit", lambda size: b"\x22\x00" * (size // 2)),
    "empty requests": ("WarehouseService/BatchReserve", lambda size: b"\x0a\x00" * (size // 2)),
    "empty ids": ("WarehouseService/BatchGetRequests", lambda size: b"\x0a\x00" * (size // 2)),
    "products": ("StockService/BatchGetProducts", lambda size: b"\x0a" + varint(size) + b"\x00" * size),
    "empty keys": ("StockService/BatchGetInventory", lambda size: b"\x0a\x00" * (size // 2)),
    "unknown fields": ("WarehouseService/Reserve", lambda size: b"\xf8\x3f\x00" * (size // 3)),
    "a long id": (
        "WarehouseService/Reserve",
        lambda size: pb.ReserveRequest(request_id="\u0001" * size).SerializeToString(),
    ),
    "a long text": (
        "StockService/CreateProduct",
        lambda size: stock.CreateProductRequest(description=" " * size).SerializeToString(),
    ),
    "a page token": (
        "StockService/ListProducts",
        lambda size: stock.ListProductsRequest(page_token="W1tb" * (size // 4)).SerializeToString(),
    ),
    "garbage": ("WarehouseService/Reserve", lambda size: b"\xff" * size),
    "the same field": ("WarehouseService/Reserve", lambda size: b"\x0a\x01r" * (size // 3)),
}


def varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(shop: Attacked, name: str) -> None:
    method, make = MESSAGES[name]
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        call: Any = channel.unary_unary(f"/warehouse.v1.{method}")

        def ask(size: int) -> None:
            with pytest.raises(grpc.RpcError) as no:
                call(make(size))
            assert no.value.code() is grpc.StatusCode.INVALID_ARGUMENT, no.value

        assert_linear(shop.warehouse.pid, ask, MESSAGE_BYTES, name)


@pytest.mark.parametrize("name", ["empty lines", "empty lines to look at", "empty requests", "products", "garbage"])
def test_a_million_elements_are_not_looked_at(shop: Attacked, name: str) -> None:
    method, make = MESSAGES[name]
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        call: Any = channel.unary_unary(f"/warehouse.v1.{method}")
        costs = []
        for _ in range(TRIES):
            before = cpu_seconds(shop.warehouse.pid)
            with pytest.raises(grpc.RpcError) as no:
                call(make(2_000_000))
            costs.append(cpu_seconds(shop.warehouse.pid) - before)
            assert no.value.code() is grpc.StatusCode.INVALID_ARGUMENT, no.value
        assert min(costs) < MILLION_SECONDS_MAX


def test_a_batch_of_the_greatest_length(shop: Attacked) -> None:
    """A thousand requests, each with as many lines as it may have, and nothing in it that is right."""
    lines = b"\x1a\x00" * 100
    request = b"\x0a" + varint(len(lines)) + lines
    with grpc.insecure_channel(shop.target, NO_PROXY) as channel:
        call: Any = channel.unary_unary("/warehouse.v1.WarehouseService/BatchReserve")
        before = cpu_seconds(shop.warehouse.pid)
        answer = pb.BatchReserveResponse.FromString(call(request * 1000))
        assert len(answer.results) == 1000
        assert cpu_seconds(shop.warehouse.pid) - before < CPU_SECONDS_MAX


METADATA: Mapping[str, Callable[[int], Sequence[tuple[str, str | bytes]]]] = {
    "hops": lambda size: [("x-forwarded-for", text_of("10.0.0.{}", ", ")(size))],
    "colons of a hop": lambda size: [("x-forwarded-for", text_of("[:")(size))],
    "commas": lambda size: [("x-forwarded-for", "," * size)],
    "trusted hops": lambda size: [("x-forwarded-for", text_of("127.0.0.1", ",")(size))],
    "many headers of hops": lambda size: [("x-forwarded-for", "127.0.0.1")] * (size // 56),
    "an actor": lambda size: [("x-actor", text_of("a/")(size))],
    "many actors": lambda size: [("x-actor", str(number)) for number in range(size // 43)],
    "a correlation id": lambda size: [("x-correlation-id", text_of("c")(size))],
    "spaces of a correlation id": lambda size: [("x-correlation-id", f"a{' ' * size}a")],
    "a trace": lambda size: [("traceparent", text_of("00-")(size))],
    "a key": lambda size: [("x-api-key", text_of("k")(size))],
    "many keys": lambda size: [("x-api-key", str(number)) for number in range(size // 45)],
    "unknown names": lambda size: [(f"x-u{number}", "1") for number in range(size // 40)],
    "bytes": lambda size: [("x-odd-bin", b"\xff" * (size // 2))],
}


@pytest.fixture(scope="module")
def locked(
    make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceProcess, str]]:
    """A warehouse with keys, which believes the proxies before it."""
    processes = Processes(tmp_path_factory.mktemp("locked"))
    settings = {
        "WAREHOUSE_API_KEYS": json.dumps(
            [{"name": name, "role": "admin", "sha256": hashed(key_of(name))} for name in ("shop", "till")]
        ),
        "WAREHOUSE_TRUSTED_PROXIES": '["127.0.0.0/8"]',
        "WAREHOUSE_WRONG_KEYS_PER_MINUTE_MAX": str(WRONG_KEYS_MAX),
    }
    yield processes.warehouse(make_database("warehouse"), settings=settings)
    processes.stop_all()


@pytest.mark.parametrize("shown", [key_of("shop"), ""], ids=["known", "a stranger"])
@pytest.mark.parametrize("name", METADATA)
def test_metadata(locked: tuple[ServiceProcess, str], name: str, shown: str) -> None:
    process, target = locked
    with grpc.insecure_channel(target, NO_PROXY) as channel:
        call: Any = channel.unary_unary("/warehouse.v1.WarehouseService/GetCaller")

        def ask(size: int) -> None:
            metadata = [*([("x-api-key", shown)] if shown else []), *METADATA[name](size)]
            assert {ended(call, metadata) for _ in range(HEADS)} <= ENDS

        assert_linear(process.pid, ask, HEAD_BYTES, name)


def test_metadata_is_read(locked: tuple[ServiceProcess, str]) -> None:
    with grpc.insecure_channel(locked[1], NO_PROXY) as channel:
        call: Any = channel.unary_unary("/warehouse.v1.WarehouseService/GetCaller")
        known = ("x-api-key", key_of("shop"))
        assert ended(call, [known]) is grpc.StatusCode.OK
        for odd in (("x-correlation-id", "c" * 1000), known):
            assert ended(call, [known, odd]) is not grpc.StatusCode.OK
        wrong = [("x-api-key", "wrong"), ("x-forwarded-for", "203.0.113.9")]
        tried = [ended(call, wrong) for _ in range(WRONG_KEYS_MAX + 1)]
        assert tried[-2:] == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED]


ENDS = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


def ended(call: Any, metadata: Sequence[tuple[str, str | bytes]]) -> grpc.StatusCode:
    try:
        call(b"", metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def assert_linear(pid: int | None, ask: Callable[[int], None], size: int, what: str) -> None:
    for _ in range(TRIES):
        once, twice = _cost(pid, ask, size), _cost(pid, ask, 2 * size)
        if twice < max(NOTICEABLE_SECONDS, once * RATIO_MAX):
            break
    else:
        pytest.fail(f"{what}: {once:.4f} s of processor time, and {twice:.4f} s for twice that")
    assert twice < CPU_SECONDS_MAX, f"{what}: {twice:.3f} s of processor time"


def _cost(pid: int | None, ask: Callable[[int], None], size: int) -> float:
    before = cpu_seconds(pid)
    ask(size)
    return cpu_seconds(pid) - before
