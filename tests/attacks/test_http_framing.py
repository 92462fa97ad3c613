"""HTTP that is broken, or that two readers could read in two ways, on a real socket."""

import json
import zlib

import pytest

from tests.kits.attacked import ORDERS, WISH, Attacked, http, statuses

pytestmark = [pytest.mark.sql, pytest.mark.e2e, pytest.mark.usefixtures("unsurprised")]


BODY = json.dumps(WISH).encode()
LENGTHS = (
    "-1",
    "+5",
    "5, 5",
    "5 5",
    "0x5",
    "1e3",
    "",
    "9" * 30,
    str(2**63),
    str(2**64),
    "18446744073709551617",
    "5\t",
    "\u0665",
)


@pytest.mark.parametrize("length", LENGTHS)
def test_absurd_lengths_are_refused(shop: Attacked, length: str) -> None:
    raw = http("POST", ORDERS, b"", {"Content-Length": length.encode()}) + b"{}abc"
    answered = statuses(shop.send(raw, half_close=True))
    assert answered in ([400], [413], []), answered


def test_what_two_readers_could_frame_in_two_ways_is_refused(shop: Attacked) -> None:
    inner = b"GET /api/v1/products HTTP/1.1\r\nHost: x\r\n\r\n"
    cases: dict[str, dict[str, str | bytes]] = {
        "both": {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        "both, the other way": {"Transfer-Encoding": "chunked", "Content-Length": "5"},
        "not chunked at last": {"Transfer-Encoding": "chunked, identity"},
        "twice chunked": {"Transfer-Encoding": "chunked, chunked"},
        "unknown": {"Transfer-Encoding": "xchunked"},
        "vertical tab": {"Transfer-Encoding": b"\x0bchunked"},
    }
    for name, headers in cases.items():
        raw = http("POST", ORDERS, b"", headers, last=False) + b"0\r\n\r\n" + inner
        answered = shop.send(raw, half_close=True)
        # Whatever is said about the first request, there is no second one.
        assert len(statuses(answered)) <= 1, (name, answered[:2000])
        assert not statuses(answered) or 400 <= statuses(answered)[0] <= 501, (name, answered[:2000])
    doubled = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}abc"
    assert statuses(shop.send(doubled + inner, half_close=True)) in ([400], [])
    spaced = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n{}abc"
    assert statuses(shop.send(spaced + inner, half_close=True)) in ([400], [])
    folded = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\n{}abc"
    assert statuses(shop.send(folded, half_close=True)) in ([400], [])


CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"-1\r\n{}\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\n{}",
    b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}0\r\n\r\n",
    b"2\n{}\n0\n\n",
    b"0\r\nX: y\r\n" * 2000 + b"\r\n",
    b"0\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
    b"\r\n",
    b"1\r\n{\r\n" * 2000 + b"0\r\n\r\n",
)


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: repr(chunks[:16]))
def test_broken_pieces_are_refused(shop: Attacked, chunks: bytes) -> None:
    raw = http("POST", ORDERS, b"", {"Transfer-Encoding": "chunked"}) + chunks
    answered = statuses(shop.send(raw, half_close=True))
    assert answered in ([400], []), answered


def test_old_and_impatient_clients_are_served(shop: Attacked) -> None:
    old = b"GET /health HTTP/1.0\r\n\r\n"
    assert b" 200 OK" in shop.send(old).partition(b"\r\n")[0]
    assert statuses(shop.send(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"))[0] in (200, 400)
    many = http("GET", "/health", last=False) * 200 + http("GET", "/health")
    assert statuses(shop.send(many)) == [200] * 201
    mixed = http("POST", ORDERS, BODY, last=False) + http("GET", "/nowhere", last=False) + http("POST", ORDERS, BODY)
    assert statuses(shop.send(mixed)) == [201, 404, 201]
    continued = http("POST", ORDERS, b"", {"Expect": "100-continue", "Content-Length": str(len(BODY))})
    assert statuses(shop.send(continued, BODY)) == [100, 201]
    ranged = http("GET", "/api/v1/openapi.json", b"", {"Range": "bytes=0-9,5-,-1"})
    assert statuses(shop.send(ranged))[0] in (200, 206, 416)


def test_bombs_are_not_unpacked(shop: Attacked) -> None:
    deflated = zlib.compress(b" " * 200_000_000, 9)
    bombs = {"deflate": deflated, "gzip": _gzip(b" " * 200_000_000)}
    for coding, bomb in bombs.items():
        assert len(bomb) < 1_000_000
        assert statuses(shop.send(http("POST", ORDERS, bomb, {"Content-Encoding": coding}))) == [413]
    twice = http("POST", ORDERS, zlib.compress(deflated, 9), {"Content-Encoding": "deflate, deflate"})
    assert statuses(shop.send(twice)) == [400]


def _gzip(data: bytes) -> bytes:
    made = zlib.compressobj(9, wbits=31)
    return made.compress(data) + made.flush()


def test_forms_are_no_json(shop: Attacked) -> None:
    form = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % number for number in range(10_000)
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert statuses(shop.send(http("POST", ORDERS, form + b"--x--\r\n", headers))) == [400]
    assert statuses(
        shop.send(http("POST", ORDERS, b"a=1&" * 10_000, {"Content-Type": "application/x-www-form-urlencoded"}))
    ) == [400]


GARBAGE = (
    b"\x00" * 5000,
    b"\xff" * 5000,
    b"\r\n" * 5000,
    b"GET",
    b"GET /",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a" * 20_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 100,
    b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"\x80" * 9000 + b"\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"G" * 9000 + b" / HTTP/1.1\r\n\r\n",
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:16]))
def test_garbage_is_refused(shop: Attacked, garbage: bytes) -> None:
    answered = shop.send(garbage, half_close=True)
    assert all(400 <= status < 500 for status in statuses(answered)), answered[:500]
