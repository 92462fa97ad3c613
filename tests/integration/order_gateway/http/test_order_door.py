"""The order service's door, attacked over real sockets: keys, tokens, headers, and what stays in its log."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from development.free_ports import free_port
from development.service_process import ServiceProcess
from order_gateway.access import DEVELOPMENT_BROWSER_KEY
from tests.kits.attacked import KEYS as KEY_PAIRS
from tests.kits.attacked import public_keys
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from tests.kits.raw_http import RawAnswer, exchange, request
from tests.kits.secrets_used import hashed, secret
from tests.kits.shop_processes import order
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
SHOP, OTHER, BROWSER, ADMIN = (secret(f"{name}-key-{'x' * 20}") for name in ("shop", "other", "brow", "admi"))
JWT_SECRET = secret("s3cret-" * 6)
ORDERS = "/api/v1/orders"
WANTED = {
    "server": "order-service",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


def key(name: str, value: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashed(value), **more}


KEYS = [
    key("shop", SHOP),
    key("other", OTHER),
    key("page", BROWSER, person_required=True),
    key("shop", ADMIN, roles=["service", "admin"]),
]


def token(**claims: Any) -> str:
    basic = {"sub": "7", "iss": "order-service", "aud": "order-service", "exp": time.time() + 600}
    return secret(jwt.encode({**basic, **claims}, JWT_SECRET, "HS256"))


class Door:
    """An order service with keys in a file, and a client without manners."""

    def __init__(self, process: ServiceProcess, base_url: str, keys_file: Path) -> None:
        self.process, self.base_url, self.keys_file = process, base_url, keys_file

    def ask(self, *headers: str, method: str = "GET", path: str = ORDERS, body: str = "") -> RawAnswer:
        return exchange(self.base_url, request(method, path, *headers, body=body))

    def status(self, *headers: str, **more: str) -> int:
        return self.ask(*headers, **more).status

    @property
    def log(self) -> str:
        return self.process.log_path.read_text()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    return path


StartDoor = Callable[..., Door]


@pytest.fixture
def start_door(processes: Processes, orders_database_url: str, keys_file: Path) -> StartDoor:
    """Starts an order service; its warehouse is away unless one is given."""

    def start(target: str = f"127.0.0.1:{free_port()}", **settings: str) -> Door:
        every = {
            "ORDERS_PROFILE": "production",
            "ORDERS_API_KEYS_FILE": str(keys_file),
            "ORDERS_API_KEYS_CHECK_SECONDS": "0.2",
            "ORDERS_JWT_SECRET": JWT_SECRET,
            "ORDERS_JWT_LEEWAY_SECONDS": "0",
            "ORDERS_PAYMENTS__PROVIDER": "external",
            **settings,
        }
        process, base_url = processes.order_gateway(orders_database_url, target, settings=every)
        return Door(process, base_url, keys_file)

    return start


MALFORMED = (
    request("GET", ORDERS, f"X-API-Key: {SHOP}\x00"),
    request("GET", ORDERS, f"X-API-Key {SHOP}"),
    request("GET", ORDERS, f"X-API-Key : {SHOP}"),
    request("GET", ORDERS, f": {SHOP}"),
    request("GET", ORDERS, f"X-API\x01Key: {SHOP}"),
    request("GET", ORDERS, f"Authorization: Bearer {token()}\x07"),
    request("GET", ORDERS, f"X-API-Key: {SHOP * 1000}"),
    request("GET", ORDERS, f"X-API-Key: {SHOP}", "Content-Length: many"),
    request("GET", ORDERS, f"X-API-Key: {SHOP}", f"Content-Length: {SHOP}"),
    request("GET", ORDERS, f"X-API-Key: {SHOP}", f"Transfer-Encoding: {SHOP}"),
    f"GET {ORDERS} HTTP/9.{SHOP}\r\n\r\n".encode(),
    f"{SHOP} {ORDERS} HTTP/1.1\r\n\r\n".encode(),
    b"\x16\x03\x01" + SHOP.encode() + b"\r\n\r\n",
)


def test_what_is_malformed_is_answered_in_form_and_leaves_no_secret_behind(start_door: StartDoor) -> None:
    door = start_door(ORDERS_LOG_LEVEL="DEBUG")
    for sent in MALFORMED:
        answer = exchange(door.base_url, sent)
        assert 400 <= answer.status < 500, sent
        assert_secured(answer)
        assert json.loads(answer.body)["error"]["code"], sent
    door.process.stop()
    assert SHOP not in door.log
    assert "eyJ" not in door.log
    assert "Traceback" not in door.log
    assert "request_not_understood" in door.log
    assert door.process.log_path.stat().st_mode & 0o777 == 0o600


def assert_secured(answer: RawAnswer) -> None:
    for name, value in WANTED.items():
        assert answer.all(name) == [value], (name, answer)
    assert len(answer.all("permissions-policy")) == 1
    [policy] = answer.all("content-security-policy")
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_every_answer_has_its_headers(start_door: StartDoor) -> None:
    door = start_door()
    for path in ("/health", "/ready", "/metrics", "/swagger/", "/swagger", "/swagger/start.js", "/swagger/none",
                 "/none", "/api/v1/openapi.json", ORDERS):  # fmt: skip
        assert_secured(door.ask(path=path))
    for answer in (
        door.ask(f"X-API-Key: {SHOP}"),
        door.ask(f"X-API-Key: {SHOP}", path="/api/v1/nothing"),
        door.ask(f"X-API-Key: {SHOP}", method="BREW"),
        door.ask(f"X-API-Key: {SHOP}", method="OPTIONS"),
        door.ask(f"X-API-Key: {SHOP}", "Expect: something", method="POST", body="{}"),
        door.ask(f"X-API-Key: {SHOP}", method="POST", body='{"user_id": 1'),
    ):
        assert_secured(answer)


def test_a_path_that_is_too_deep_is_not_there(start_door: StartDoor) -> None:
    """It is not looked for, and is answered like any other that is not there."""
    door = start_door()
    shop = f"X-API-Key: {SHOP}"
    for path in (f"{ORDERS}{'/a' * 3_000}", f"/api/v1/nothing{'/' * 3_000}", f"/swagger{'/a' * 9}", "/api/v1/nothing"):
        answer = door.ask(shop, path=path)
        assert_secured(answer)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (404, "NOT_FOUND")
        assert answer.all("x-request-id") == [error["request_id"]]
    assert door.status(path=f"{ORDERS}{'/a' * 3_000}") == 401
    # The deepest there are.
    for path in (f"{ORDERS}/1/reservations", "/api/v1/inventory/1/1"):
        assert json.loads(door.ask(shop, path=path).body)["error"]["code"] != "NOT_FOUND", path


def test_the_development_profile_answers_to_no_strange_name(start_door: StartDoor) -> None:
    door = start_door(ORDERS_PROFILE="development", ORDERS_HOST_NAMES='["shop.test"]')
    port = door.base_url.split(":")[2].split("/")[0]
    for host in ("127.0.0.1", f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", "[::1]", f"[::1]:{port}",
                 "10.1.2.3", "a.localhost", f"orders:{port}", "shop.test", f"Shop.test:{port}"):  # fmt: skip
        assert exchange(door.base_url, request("GET", "/health", host=host)).status == 200, host
    for host in ("rebound.example", f"rebound.example:{port}", "127.0.0.1.rebound.example",
                 "localhost.rebound.example", "notlocalhost.", "ai.", "", "127.0.0.1:x", "x@127.0.0.1"):  # fmt: skip
        for path in ("/health", ORDERS, "/swagger/"):
            sent = request("GET", path, f"X-API-Key: {DEVELOPMENT_API_KEY}", host=host)
            assert exchange(door.base_url, sent).status in (400, 403), host
    assert exchange(start_door().base_url, request("GET", "/health", host="rebound.example")).status == 200


def test_one_key_and_one_token_or_none(start_door: StartDoor) -> None:
    door = start_door()
    shop, admin, person = f"X-API-Key: {SHOP}", f"X-API-Key: {ADMIN}", f"Authorization: Bearer {token()}"
    assert (door.status(shop), door.status(shop, person)) == (200, 200)
    for headers in ((shop, shop), (shop, admin), ("X-API-Key: wrong", admin), (admin, "x-api-key: wrong"),
                    ("X-API-Key:", admin), (f"X-API-Key: {SHOP}, {SHOP}",), (shop, person, person),
                    (shop, person, "Authorization: "), (), ("X-API-Key:",), ("X-API-Key: \u00e9",)):  # fmt: skip
        assert door.status(*headers) == 401, headers


def test_a_key_in_a_browser_is_nobody_without_a_person(start_door: StartDoor) -> None:
    door = start_door()
    page = f"X-API-Key: {BROWSER}"
    for headers in ((), ("Authorization:",), ("Authorization: Bearer",), ("Authorization: Bearer x",)):
        assert door.status(page, *headers) == 401
    assert door.status(page, f"Authorization: Bearer {token()}") == 200
    assert door.status(page, f"Authorization: Bearer {token()}", path=f"{ORDERS}?user_id=8") == 403
    placing = {"method": "POST", "body": json.dumps(order())}
    assert door.status(page, **placing) == 401


def test_the_development_key_for_browsers_is_such_a_key(processes: Processes, orders_database_url: str) -> None:
    process, base_url = processes.order_gateway(orders_database_url, f"127.0.0.1:{free_port()}")
    door, page = Door(process, base_url, Path()), f"X-API-Key: {DEVELOPMENT_BROWSER_KEY}"
    login = json.dumps({"username": "customer", "password": "customer"})
    answer = door.ask(method="POST", path="/api/v1/auth/token", body=login)
    bearer = secret(json.loads(answer.body)["data"]["access_token"])
    assert (door.status(page), door.status(page, f"Authorization: Bearer {bearer}")) == (401, 200)


def test_roles_that_are_none(start_door: StartDoor) -> None:
    door = start_door()
    admins_only = {"path": "/api/v1/config/warehouse"}
    for claims, status in (
        ({"roles": ["admin"]}, 200), ({"role": "admin"}, 200), ({"roles": [], "role": "admin"}, 403),
        ({"roles": None, "role": "admin"}, 403), ({"roles": "admin"}, 403), ({"roles": {"admin": 1}}, 403),
        ({"roles": [["admin"]]}, 403), ({}, 403), ({"role": ["admin"]}, 403),
    ):  # fmt: skip
        assert door.status(f"X-API-Key: {SHOP}", f"Authorization: Bearer {token(**claims)}", **admins_only) == status


def test_who_guesses_keys_is_stopped_and_nobody_else(start_door: StartDoor) -> None:
    door = start_door(ORDERS_WRONG_KEYS_PER_MINUTE_MAX="5", ORDERS_TRUSTED_PROXIES='["127.0.0.0/8"]')

    def show(shown: str, address: str = "203.0.113.5") -> int:
        return door.status(f"X-API-Key: {shown}", f"X-Forwarded-For: 198.51.100.9, {address}")

    assert show(SHOP) == 200
    assert [show(f"guess-{number}") for number in range(8)] == [401] * 5 + [429] * 3
    # Right, and not told so; the shop, which has been there before, goes on; so does everybody elsewhere.
    assert (show(OTHER), show(SHOP)) == (429, 200)
    assert (show(OTHER, "203.0.113.6"), show("guess", "203.0.113.6")) == (200, 401)


def test_who_guesses_passwords_is_stopped_and_not_the_person(start_door: StartDoor) -> None:
    door = start_door(
        ORDERS_PROFILE="development",
        ORDERS_WRONG_PASSWORDS_PER_MINUTE_MAX="2",
        ORDERS_TRUSTED_PROXIES='["127.0.0.0/8"]',
    )

    def log_in(name: str, password: str, address: str) -> int:
        body = json.dumps({"username": name, "password": password})
        return door.status(f"X-Forwarded-For: {address}", method="POST", path="/api/v1/auth/token", body=body)

    assert log_in("customer", "customer", "203.0.113.1") == 200
    tried = [log_in("customer", f"guess-{number}", f"198.51.100.{number}") for number in range(4)]
    assert tried == [401, 401, 429, 429]
    assert log_in("customer", "customer", "198.51.100.9") == 429
    assert log_in("customer", "customer", "203.0.113.1") == 200
    assert log_in("admin", "admin", "198.51.100.1") == 200


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, start_door: StartDoor) -> Door:
    _process, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    return await asyncio.to_thread(start_door, target)


async def test_a_stream_ends_with_its_key(shop: Door) -> None:
    async with aiohttp.ClientSession(headers={"X-API-Key": OTHER}) as session:
        async with session.post(f"{shop.base_url}/orders", json=order()) as placed:
            place = placed.headers["Location"].removeprefix("/api/v1")
        async with session.get(f"{shop.base_url}{place}/events") as stream, asyncio.timeout(10):
            assert stream.status == 200
            assert (await stream.content.readline()).startswith(b"id:")
            await asyncio.to_thread(revoke, shop.keys_file)
            rest = await stream.content.read()
        assert b"not valid any more" in rest
        assert await asyncio.to_thread(shop.status, f"X-API-Key: {OTHER}") == 401
        assert await asyncio.to_thread(shop.status, f"X-API-Key: {SHOP}") == 200


def revoke(keys_file: Path) -> None:
    """Put another key in the place of OTHER: the file keeps its size, its inode and its time of change."""
    before = keys_file.stat()
    text = keys_file.read_text().replace(key("other", OTHER)["sha256"], "0" * 64)
    with keys_file.open("r+") as file:
        file.write(text)
    os.utime(keys_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = keys_file.stat()
    assert (before.st_size, before.st_ino, before.st_mtime_ns) == (after.st_size, after.st_ino, after.st_mtime_ns)


async def test_a_stream_ends_with_its_token(shop: Door) -> None:
    bearer = {"X-API-Key": SHOP, "Authorization": f"Bearer {token(exp=time.time() + 3)}"}
    async with aiohttp.ClientSession(headers=bearer) as session:
        async with session.post(f"{shop.base_url}/orders", json=order()) as placed:
            place = placed.headers["Location"].removeprefix("/api/v1")
        async with session.get(f"{shop.base_url}{place}/events") as stream, asyncio.timeout(10):
            assert b"not valid any more" in await stream.content.read()
        async with session.get(f"{shop.base_url}{place}/events") as stream:
            assert stream.status == 401


async def test_a_stream_ends_with_the_public_key_of_its_token(
    processes: Processes, warehouse_database_url: str, start_door: StartDoor, tmp_path: Path
) -> None:
    jwks = tmp_path / "jwks.json"
    keys = public_keys()["keys"]
    await asyncio.to_thread(jwks.write_text, json.dumps({"keys": keys}))
    _process, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    door = await asyncio.to_thread(lambda: start_door(target, ORDERS_JWT_JWKS_FILE=str(jwks)))
    claims = {"sub": "7", "iss": "order-service", "aud": "order-service", "exp": time.time() + 600}
    gone, stays = (
        {
            "X-API-Key": SHOP,
            "Authorization": f"Bearer {secret(jwt.encode(claims, KEY_PAIRS[kid], 'RS256', {'kid': kid}))}",
        }
        for kid in ("rsa", "other")
    )
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{door.base_url}/orders", json=order(), headers=gone) as placed:
            events = f"{door.base_url}{placed.headers['Location'].removeprefix('/api/v1')}/events"
        async with (
            session.get(events, headers=gone) as ending,
            session.get(events, headers=stays) as staying,
            asyncio.timeout(10),
        ):
            for stream in (ending, staying):
                assert (await stream.content.readline()).startswith(b"id:")
            left = [key for key in keys if key["kid"] != "rsa"]
            await asyncio.to_thread(jwks.write_text, json.dumps({"keys": left}))
            assert b"not valid any more" in await ending.content.read()
            for headers, status in ((gone, 401), (stays, 200)):
                async with session.get(events, headers=headers) as again:
                    assert again.status == status
            assert not staying.content.at_eof()


async def test_a_wait_that_outlives_its_token_shows_nothing(
    processes: Processes, warehouse_database_url: str, start_door: StartDoor
) -> None:
    warehouse, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    door = await asyncio.to_thread(lambda: start_door(target, ORDERS_GATEWAY="queued"))

    def place() -> str:
        placed = door.ask(f"X-API-Key: {SHOP}", method="POST", body=json.dumps(order()))
        assert placed.status == 202, placed
        return placed.all("location")[0]

    def wait() -> tuple[int, int]:
        place()  # so that the price is known
        warehouse.stop()
        path = f"{place()}?wait=3"
        bearer = f"Authorization: Bearer {token(exp=time.time() + 2)}"
        return door.status(f"X-API-Key: {SHOP}", bearer, path=path), door.status(f"X-API-Key: {SHOP}", path=path)

    assert await asyncio.to_thread(wait) == (401, 200)


async def test_an_idempotency_key_is_its_callers_with_its_roles(shop: Door) -> None:
    def place(shown: str) -> RawAnswer:
        headers = (f"X-API-Key: {shown}", "Idempotency-Key: cart-1")
        return shop.ask(*headers, method="POST", body=json.dumps(order()))

    placed = [await asyncio.to_thread(place, shown) for shown in (SHOP, SHOP, ADMIN, OTHER)]
    ids = [json.loads(answer.body)["data"]["id"] for answer in placed]
    assert [answer.all("idempotent-replayed") for answer in placed] == [[], ["true"], [], []]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_a_strangers_hold_and_none_are_one_answer(shop: Door) -> None:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    body = {"order_id": "their-cart", "product_id": 1, "warehouse_id": 1, "quantity": 1, "expires_at": until}
    as_service = {"X-API-Key": SHOP}
    as_person = {"X-API-Key": SHOP, "Authorization": f"Bearer {token(sub='9')}"}

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{shop.base_url}/reservations", json=body, headers=as_service) as made:
            assert made.status == 201, await made.text()
            theirs = made.headers["Location"].rpartition("/")[2]
        absent = theirs[:-4] + ("0000" if not theirs.endswith("0000") else "1111")

        async def look(id_: str) -> tuple[int, dict[str, Any]]:
            async with session.get(f"{shop.base_url}/reservations/{id_}", headers=as_person) as response:
                error = (await response.json())["error"]
                return response.status, json.loads(json.dumps({**error, "request_id": ""}).replace(id_, "ID"))

        assert await look(theirs) == await look(absent)
        assert (await look(theirs))[0] == 404


OF_ONE_ORDER: tuple[tuple[str, str, str, int], ...] = (
    ("GET", "", "", 404),
    ("GET", "?wait=1", "", 404),
    ("GET", "/reservations", "", 404),
    ("GET", "/events", "", 404),
    ("HEAD", "/events", "", 404),
    ("GET", "/why", "", 403),
    ("POST", "/payment", "{}", 403),
    ("POST", "/pay", '{"payment_reference": "taken"}', 403),
    ("POST", "/cancel", "{}", 403),
    *(("PATCH", "/status", json.dumps({"status": to}), 403) for to in ("paid", "cancelled", "shipped", "completed")),
)
"""What can be asked about one order, and what a customer hears about a stranger's and about none."""


async def test_a_strangers_order_and_none_are_one_answer(shop: Door) -> None:
    placed = await asyncio.to_thread(shop.ask, f"X-API-Key: {SHOP}", method="POST", body=json.dumps(order()))
    theirs = json.loads(placed.body)["data"]["id"]
    absent = theirs + 1
    as_person = (f"X-API-Key: {SHOP}", f"Authorization: Bearer {token(sub='9')}", "X-Request-ID: same")

    def look(method: str, path: str, body: str, order_id: int) -> tuple[int, str]:
        answer = shop.ask(*as_person, method=method, path=f"{ORDERS}/{order_id}{path}", body=body)
        return answer.status, answer.body.decode().replace(str(order_id), "ID")

    for method, path, body, status in OF_ONE_ORDER:
        heard = [await asyncio.to_thread(look, method, path, body, order_id) for order_id in (theirs, absent)]
        assert heard[0] == heard[1], (method, path)
        assert heard[0][0] == status, (method, path, heard)
    untouched = await asyncio.to_thread(shop.ask, f"X-API-Key: {SHOP}", path=f"{ORDERS}/{theirs}")
    assert json.loads(untouched.body)["data"]["status"] == "pending"


async def test_every_operation_on_an_order_is_among_them(shop: Door) -> None:
    described = json.loads((await asyncio.to_thread(shop.ask, path="/api/v1/openapi.json")).body)["paths"]
    one = f"{ORDERS}/{{id}}"
    known = {(method, path.partition("?")[0]) for method, path, _body, _status in OF_ONE_ORDER if method != "HEAD"}
    assert known == {
        (method.upper(), path.removeprefix(one))
        for path, operations in described.items()
        for method in operations
        if path.startswith(one)
    }
