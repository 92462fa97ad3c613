"""Odd HTTP on a real socket: an answer that says what is wrong, or none; never a 500, never a traceback."""

import json
import socket
import struct
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from tests.kits.attacked import ORDER, ORDERS, WISH, Attacked, http, statuses

pytestmark = [pytest.mark.sql, pytest.mark.e2e, pytest.mark.usefixtures("unsurprised")]
PATIENCE_SECONDS = 20


def _count(shop: Attacked, status: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{shop.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1])) for line in lines if "requests_total" in line and f'status="{status}"' in line
    )


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


UPLOADS: Mapping[str, tuple[bytes, bytes]] = {
    "with a length": (http("POST", ORDERS, b"", {"Content-Length": "1000"}), b'{"user_id":'),
    "in pieces": (http("POST", ORDERS, b"", {"Transfer-Encoding": "chunked"}), b'4\r\n{"us\r\n'),
    "in a broken piece": (http("POST", ORDERS, b"", {"Transfer-Encoding": "chunked"}), b'40\r\n{"us'),
    "compressed": (
        http("POST", ORDERS, b"", {"Content-Encoding": "gzip", "Content-Length": "1000"}),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    ),
    "of a change": (http("PATCH", ORDER + "/status", b"", {"Content-Length": "1000"}), b"{"),
    "of a login": (http("POST", "/api/v1/auth/token", b"", {"Content-Length": "1000"}), b"{"),
    "to be repeated": (http("POST", ORDERS, b"", {"Content-Length": "1000", "Idempotency-Key": "broken"}), b"{"),
    "of a callback": (http("POST", "/api/v1/payments/callbacks", b"", {"Content-Length": "1000"}), b"{"),
}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_broken_off_is_counted_as_499(shop: Attacked, name: str, is_reset: bool) -> None:
    head, begun = UPLOADS[name]
    before = _count(shop, 499)
    with socket.create_connection(("127.0.0.1", shop.port)) as connection:
        connection.sendall(head)
        connection.sendall(begun)
        time.sleep(0.1)  # the handler shall be at work
        if is_reset:
            _reset(connection)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _count(shop, 499) == before:
        assert time.monotonic() < deadline, "it was not counted"
        time.sleep(0.02)
    assert _count(shop, 499) == before + 1
    assert _count(shop, 500) == 0


def test_a_broken_upload_leaves_its_idempotency_key_free(shop: Attacked) -> None:
    key = {"Idempotency-Key": "broken-once"}
    head = http("POST", ORDERS, b"", {"Content-Length": "1000", **key})
    with socket.create_connection(("127.0.0.1", shop.port)) as connection:
        connection.sendall(head + b"{")
    assert statuses(shop.send(http("POST", ORDERS, json.dumps(WISH).encode(), key))) == [201]


@pytest.mark.parametrize("bytes_sent", [1, 10, 40, 80, 120, 10_000])
def test_a_client_may_leave_at_any_moment(shop: Attacked, bytes_sent: int) -> None:
    for path in ("/api/v1/products", "/swagger/", "/metrics", "/api/v1/openapi.json", "/api/v1/orders?limit=100"):
        with socket.create_connection(("127.0.0.1", shop.port)) as connection:
            connection.sendall(http("GET", path)[:bytes_sent])
            _reset(connection)
    placing = http("POST", ORDERS, json.dumps(WISH).encode())
    with socket.create_connection(("127.0.0.1", shop.port)) as connection:
        connection.sendall(placing[:bytes_sent])
        _reset(connection)
    assert _count(shop, 500) == 0


# ---------------------------------------------------------------- numbers, texts

NO_JSON = ("NaN", "Infinity", "-Infinity")
NUMBERS = (
    "1e1000000",
    "-1e1000000",
    "1e-1000000",
    "0e1000000",
    "1e99999999999999999999",
    "1e-99999999999999999999",
    "9" * 5000,
    "-" + "9" * 5000,
    "1." + "0" * 5000 + "1",
    *NO_JSON,
    "1e400",
    "1e308",
)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:24])
def test_no_number_is_too_large_to_be_refused(shop: Attacked, number: str) -> None:
    item = f'"product_id":{number},"warehouse_id":{number},"quantity":{number},"unit_price":{number}'
    items = f"[{{{item}}}]"
    bodies = {
        ORDERS: f'{{"user_id":{number},"shipping_address":"a","payment_method":"c","items":{items}}}',
        "/api/v1/inventory/reserve": f'{{"order_id":{number},"reserve_until":{number},"items":{items}}}',
        "/api/v1/inventory/update": f'{{"product_id":1,"warehouse_id":1,"quantity":{number}}}',
        "/api/v1/payments/callbacks": f'{{"data":{{"order_id":{number}}}}}',
    }
    for path, body in bodies.items():
        answered = shop.send(http("POST", path, body.encode()))
        assert statuses(answered) == [400], (path, answered[:2000])
        if number not in NO_JSON and path == ORDERS:
            fields = {detail["field"] for detail in _error(answered)["details"]}
            assert "items.0.quantity" in fields, fields
    assert statuses(shop.send(http("GET", f"{ORDERS}?page={number[:4000]}"))) == [400]
    assert statuses(shop.send(http("GET", f"{ORDERS}/{number[:4000]}"))) == [400]


TEXTS = (
    b"\\ud800",
    b"\\udfff\\ud800",
    b"\\u0000",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\\u202e",
    b"\\uffff",
    b"",
)


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_is_too_odd_to_be_refused(shop: Attacked, text: bytes) -> None:
    fields = (
        b'"user_id":"%s"',
        b'"%s":1',
        b'"%s":1,"%s":2',
        b'"shipping_address":"%s"',
        b'"items":[{"%s":"x"}]',
        b'"currency":"%s"',
        b'"items":"%s"',
    )
    for field in fields:
        body = b"{" + field.replace(b"%s", text) + b"}"
        for path in (ORDERS, "/api/v1/inventory/reserve", "/api/v1/auth/token"):
            assert statuses(shop.send(http("POST", path, body))) == [400], (path, body)
    login = b'{"username":"%s","password":"%s"}' % (text, text)
    assert statuses(shop.send(http("POST", "/api/v1/auth/token", login)))[0] in (400, 401)


PATHS = (
    "/api/v1/orders/%00",
    "/api/v1/orders/%FF",
    "/api/v1/orders/%ED%A0%80",
    "/api/v1/orders?user_id=%00",
    "/api/v1/orders?user_id=%FF",
    "/api/v1/orders?user_id=%ED%A0%80",
    "/api/v1/orders?%FF=1",
    "/api/v1/orders?%ED%A0%80=1&%ED%A0%80=2",
    "/api/v1/orders?%00=1",
    "/api/v1/orders?a=%",
    "/api/v1/orders?a=%zz",
    "/%ED%A0%80",
    "/%00",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//",
    "/..",
    "/swagger/../../etc/passwd",
    "/swagger/%2e%2e/%2e%2e/etc/passwd",
    "/swagger/static/..%2f..%2fetc/passwd",
    "/api/v1/orders/1%2fpay",
    "*",
    "http://elsewhere/api/v1/orders",
    "http://[::1/",
    "http://[/",
    "//[",
    "?",
    "#",
    "/a b",
    "/" + "a/" * 3000,
    "/api/v1/reservations/%0d%0aX:1",
    "/api/v1/dead-letters/%FF/retry",
    "/api/v1/inventory/%C2%B2/1",
)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_no_path_is_too_odd_to_be_refused(shop: Attacked, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        for answered in statuses(shop.send(http(method, path))):
            assert 200 <= answered < 500
    raw = b"GET " + path.encode().replace(b"%FF", b"\xff").replace(b"%00", b"\x00") + b" HTTP/1.1\r\nHost: x\r\n"
    for answered in statuses(shop.send(raw + b"Connection: close\r\n\r\n")):
        assert answered < 500


HEADER_NAMES = (
    "Host",
    "X-API-Key",
    "Authorization",
    "Idempotency-Key",
    "X-Request-ID",
    "X-Correlation-ID",
    "traceparent",
    "Accept",
    "Content-Type",
    "If-None-Match",
    "Origin",
    "Cookie",
    "X-Forwarded-For",
    "Last-Event-ID",
    "Range",
    "Expect",
    "Upgrade",
    "Content-Encoding",
    "Accept-Encoding",
    "Content-Length",
    "Transfer-Encoding",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "Access-Control-Request-Method",
    "Connection",
)
VALUES = (
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x00",
    b"a\x0bb",
    b"",
    b"%00",
    b'"',
    b'W/"',
    b",",
    b";",
    b"=",
    b"bytes=0-,,-1",
    b"9" * 30,
    b"\xf0\x9f\x98\x80",
    b"a" * 8100,
    b"a" * 9000,
    b"-1",
    b"1e5",
    b"0x10",
    b"chunked, chunked",
    b"100-continue",
    b"websocket",
    b"gzip",
    b"deflate, gzip",
    b"br",
    b"zstd",
    b"Bearer",
    b"Bearer \xff",
    b"Basic eDp5",
    b"[::",
    b"2026-99-99",
    b"*/*;q=x",
)


@pytest.mark.parametrize("name", HEADER_NAMES)
def test_no_header_is_too_odd_to_be_refused(shop: Attacked, name: str) -> None:
    for value in VALUES:
        for method, path, body in (
            ("GET", f"{ORDERS}", b""),
            ("POST", ORDERS, b"{}"),
            ("GET", "/metrics", b""),
            ("GET", f"{ORDER}/events", b""),
            ("POST", "/api/v1/payments/callbacks", b'{"data":{"order_id":"1"}}'),
        ):
            answered = statuses(shop.send(http(method, path, body, {name: value}), half_close=True))
            assert all(status < 500 or status == 501 for status in answered), (value, method, path, answered)


def _error(answered: bytes) -> Any:
    return json.loads(answered.partition(b"\r\n\r\n")[2])["error"]
