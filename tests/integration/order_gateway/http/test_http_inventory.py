"""Stock, holds, products and order lists over HTTP, against a real warehouse; and who may do what."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from order_gateway.access import DEVELOPMENT_JWT_SECRET
from service_kit.database.database import Database
from stockwarden_client import ClientSettings, WarehouseClient, stock_pb2
from tests.conftest import MakeDatabase
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from tests.kits.secrets_used import hashed, key_of
from tests.kits.warehouse_kit import sql
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
SERVICE_KEY = key_of("a shop without the role admin")
PATIENCE_SECONDS = 10
KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
SHOP = {"X-API-Key": SERVICE_KEY}
ITEM = {"product_id": 1, "warehouse_id": 1, "quantity": 2}
ORDER: dict[str, Any] = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [ITEM]}
JWKS_KEY = ec.generate_private_key(ec.SECP256R1())


def key_entry(key: str, name: str, *roles: str) -> dict[str, Any]:
    return {"name": name, "sha256": hashed(key), "roles": roles}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_text(json.dumps([key_entry(SERVICE_KEY, "shop", "service")]))
    return path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop_all()


@pytest.fixture(scope="module")
def target(make_database: MakeDatabase, started: Processes) -> str:
    address = started.warehouse(make_database("warehouse"))[1]
    asyncio.run(load_demo(address, ""))
    return address


@pytest.fixture(scope="module")
def orders_url(make_database: MakeDatabase) -> str:
    return make_database("orders")


@pytest.fixture(scope="module")
def base_url(orders_url: str, started: Processes, target: str, keys_file: Path) -> str:
    jwks = keys_file.with_name("jwks.json")
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(JWKS_KEY.public_key()))
    jwks.write_text(json.dumps({"keys": [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]}))
    settings = {
        "ORDERS_API_KEYS": json.dumps([key_entry(DEVELOPMENT_API_KEY, "development", "service", "admin")]),
        "ORDERS_API_KEYS_FILE": str(keys_file),
        "ORDERS_API_KEYS_CHECK_SECONDS": "0.1",
        "ORDERS_JWT_JWKS_FILE": str(jwks),
        "ORDERS_CORS_ORIGINS": '["https://shop.example"]',
        "ORDERS_EVENT_HEARTBEAT_SECONDS": "0.2",
        "ORDERS_EVENT_POLL_SECONDS": "0.05",
    }
    return started.order_gateway(orders_url, target, settings=settings)[1]


class Api:
    """A client that checks the envelope."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self.session = session
        self.base_url = base_url

    async def call(
        self, method: str, path: str, body: object = None, *, status: int = 200, headers: Mapping[str, str] = KEY
    ) -> Any:
        answer = await self.whole(method, path, body, status=status, headers=headers)
        return answer["error"] if status >= 400 else answer["data"]

    async def whole(
        self, method: str, path: str, body: object = None, *, status: int = 200, headers: Mapping[str, str] = KEY
    ) -> Any:
        sent: dict[str, Any] = {"json": body} if body is not None else {}
        async with self.session.request(method, self.base_url + path, headers=headers, **sent) as response:
            answer = await response.json()
            assert response.status == status, answer
            assert answer["success"] == (status < 400)
            return answer

    async def until(self, method: str, path: str, status: int, headers: Mapping[str, str]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in itertools.count():
                async with self.session.request(method, self.base_url + path, headers=headers) as response:
                    if response.status == status:
                        return
                await asyncio.sleep(0.05)

    async def order(self, headers: Mapping[str, str] = KEY, **changes: Any) -> Any:
        return await self.call("POST", "/orders", {**ORDER, **changes}, status=201, headers=headers)


@pytest.fixture
async def api(base_url: str) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(session, base_url)


def soon(seconds: float = 600) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def bearer(user_id: str, role: str = "customer", **claims: Any) -> dict[str, str]:
    known = {"sub": user_id, "role": role, "iss": "order-service", "aud": "order-service", "exp": time.time() + 60}
    return {**KEY, "Authorization": "Bearer " + jwt.encode({**known, **claims}, DEVELOPMENT_JWT_SECRET, "HS256")}


async def test_stock_levels(api: Api) -> None:
    level = await api.call("GET", "/inventory/1/1")
    assert level["available_quantity"] == level["quantity"] - level["reserved_quantity"]
    assert await api.call("POST", "/inventory/get", {"product_id": 1, "warehouse_id": 1}) == level
    keys = [{"product_id": 1, "warehouse_id": 1}, {"product_id": 99, "warehouse_id": 1}]
    batch = await api.call("POST", "/inventory/batch", {"items": keys})
    assert batch == {"items": [level], "missing": [keys[1]]}
    assert (await api.call("GET", "/inventory/99/1", status=404))["code"] == "PRODUCT_NOT_FOUND"
    assert (await api.call("GET", "/inventory/1/99", status=404))["code"] == "WAREHOUSE_NOT_FOUND"


async def test_availability(api: Api) -> None:
    wanted = [
        {"product_id": 2, "warehouse_id": 1, "quantity": 60},
        {"product_id": 2, "quantity": 100},
        {"product_id": 2, "warehouse_id": 1, "quantity": 60},
        {"product_id": 2, "quantity": 101},
        {"product_id": 99, "quantity": 1},
    ]
    answer = await api.call("POST", "/inventory/check-availability", {"items": wanted})
    assert [item["sufficient"] for item in answer["items"]] == [False, True, False, False, False]
    assert answer["items"][4]["available"] == 0
    assert answer["sufficient"] is False


async def test_hold_confirm_and_release(api: Api) -> None:
    before = await api.call("GET", "/inventory/3/1")
    body = {"order_id": 900, "order_items": [{**ITEM, "product_id": 3}], "reserve_until": soon()}
    held = await api.call("POST", "/inventory/reserve", body, status=201)
    assert held["order_id"] == 900
    assert held["items"] == [{**ITEM, "product_id": 3}]
    named = {"order_id": 900, "reservation_id": held["reservation_id"]}
    other = {**named, "order_id": 901}
    assert (await api.call("POST", "/inventory/confirm", other, status=404))["code"] == "RESERVATION_NOT_FOUND"
    confirmed = await api.call("POST", "/inventory/confirm", named)
    assert confirmed["is_confirmed"]
    assert await api.call("POST", "/inventory/commit", named) == confirmed
    assert (await api.call("POST", "/inventory/release", named, status=409))["code"] == "RESERVATION_COMMITTED"
    after = await api.call("GET", "/inventory/3/1")
    assert after["quantity"] == before["quantity"] - 2
    second = await api.call("POST", "/inventory/reserve", {**body, "order_id": "web-1"}, status=201)
    released = {"order_id": "web-1", "reservation_id": second["reservation_id"]}
    assert (await api.call("POST", "/inventory/cancel", released))["status"] == "cancelled"
    over = await api.call("POST", "/inventory/reserve", {**body, "reserve_until": "2020-01-01T00:00:00Z"}, status=400)
    assert over["details"][0]["field"] == "reserve_until"
    far = await api.call("POST", "/inventory/reserve", {**body, "reserve_until": soon(10**8)}, status=400)
    assert far["details"][0]["field"] == "reserve_until"


async def test_a_hold_whose_request_died_is_found_again(api: Api, orders_url: str) -> None:
    body = {"order_id": "died", "items": [ITEM, ITEM], "reserve_until": soon()}
    headers = {**KEY, "Idempotency-Key": "died-1"}
    held = await api.call("POST", "/inventory/reserve", body, status=201, headers=headers)
    database = Database(orders_url)
    async with database.engine.begin() as connection:
        forget = "UPDATE idempotency_keys SET status = NULL, body = NULL, claimed_until = NOW(6)"
        await connection.execute(text(f"{forget} WHERE idempotency_key = 'died-1'"))
    await database.close()
    assert await api.call("POST", "/inventory/reserve", body, status=201, headers=headers) == held
    other = {**body, "order_id": "another"}
    assert (await api.call("POST", "/inventory/reserve", other, status=409, headers=headers))["code"]


async def test_single_holds(api: Api) -> None:
    body = {"order_id": "r-1", **ITEM, "expires_at": soon()}
    headers = {**KEY, "Idempotency-Key": "hold-1"}
    held = await api.call("POST", "/reservations", body, status=201, headers=headers)
    assert (held["product_id"], held["quantity"], held["is_active"]) == (1, 2, True)
    assert await api.call("POST", "/reservations", body, status=201, headers=headers) == held
    path = f"/reservations/{held['id']}"
    assert await api.call("GET", path) == held
    given_back = await api.call("POST", f"{path}/deactivate", {"reason": "no longer wanted"})
    assert (given_back["is_active"], given_back["reason"]) == (False, "no longer wanted")
    assert (await api.call("GET", "/reservations/999999", status=404))["code"] == "RESERVATION_NOT_FOUND"
    assert (await api.call("GET", "/reservations/abc", status=400))["details"][0]["field"] == "id"
    order = await api.order()
    by_number = await api.call("GET", f"/reservations/{order['reservations'][0]['id']}")
    assert by_number["reservation_id"] == order["reservations"][0]["reservation_id"]
    assert (await api.call("POST", "/reservations/cleanup"))["expired"] >= 0


async def test_a_count_and_who_made_it(api: Api, target: str) -> None:
    body = {"product_id": 2, "warehouse_id": 2, "quantity": 90, "reserved_quantity": 0, "notes": "shelf 4"}
    assert (await api.call("POST", "/inventory/update", body))["quantity"] == 90
    mismatch = await api.call("POST", "/inventory/update", {**body, "reserved_quantity": 1}, status=409)
    assert mismatch["code"] == "RESERVED_MISMATCH"
    admin = {**bearer("root", "admin"), "X-Correlation-ID": "stocktaking-1"}
    await api.call("POST", "/inventory/update", {**body, "quantity": 91}, headers=admin)
    async with WarehouseClient(ClientSettings(target=target)) as client:
        request = stock_pb2.ListMovementsRequest(product_id=2, warehouse_id=2, page_size=2)
        last, before = (await client.list_movements(request)).movements
    assert (last.actor, last.correlation_id) == ("anonymous/development/root", "stocktaking-1")
    assert (before.actor, before.notes) == ("anonymous/development", "shelf 4")


async def test_the_mode_is_shown_and_switched(api: Api) -> None:
    assert (await api.call("GET", "/config/warehouse"))["mode"] == "grpc"
    await api.call("GET", "/config/warehouse", status=403, headers=SHOP)
    await api.call("PUT", "/config/warehouse", {"mode": "queued"}, status=403, headers=bearer("alice"))
    await api.call("PUT", "/config/warehouse", {"mode": "pigeon"}, status=400)
    switched = await api.call("PUT", "/config/warehouse", {"mode": "queued"})
    assert (switched["mode"], switched["switched_by"]) == ("queued", "development")
    order = await api.call("POST", "/orders", ORDER, status=202)
    assert order["status"] == "pending_reservation"
    assert (await api.call("GET", f"/orders/{order['id']}?wait=10"))["status"] == "pending"
    assert (await api.call("PUT", "/config/warehouse", {"mode": "grpc"}))["way"] == "grpc"
    health = await api.call("GET", "/warehouse/health", headers=SHOP)
    assert (health["ok"], health["breaker"]) == (True, "closed")


async def test_products(api: Api) -> None:
    page = await api.whole("GET", "/products?page=2&limit=1")
    assert page["meta"] == {"page": 2, "limit": 1, "total": 3, "total_page": 3}
    assert [product["id"] for product in page["data"]] == [2]
    assert page["data"][0]["price"] == 29.99
    assert await api.call("GET", "/products/2") == page["data"][0]
    assert (await api.call("GET", "/products/99", status=404))["details"] == [{"product_id": 99}]


async def test_what_a_client_has_is_not_sent_again(api: Api) -> None:
    order = await api.order()
    path = f"{api.base_url}/orders/{order['id']}"
    async with api.session.get(path, headers=KEY) as response:
        tag = response.headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        async with api.session.get(path, headers={**KEY, "If-None-Match": known}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
    await api.call("POST", f"/orders/{order['id']}/cancel")
    async with api.session.get(path, headers={**KEY, "If-None-Match": tag}) as response:
        assert response.status == 200
        assert response.headers["ETag"] != tag


async def test_lists_of_orders(api: Api) -> None:
    mine = [(await api.order(user_id="lister"))["id"] for _ in range(3)]
    await api.call("POST", f"/orders/{mine[0]}/cancel")
    page = await api.whole("GET", "/orders?user_id=lister&limit=2")
    assert [order["id"] for order in page["data"]] == [mine[2], mine[1]]
    assert page["meta"] == {"page": 1, "limit": 2, "total": 3, "total_page": 2}
    assert page["data"][0] == await api.call("GET", f"/orders/{mine[2]}")
    cancelled = await api.call("GET", "/orders?user_id=lister&status=cancelled")
    assert [order["id"] for order in cancelled] == [mine[0]]
    today = datetime.now(UTC).date().isoformat()
    assert len(await api.call("GET", f"/orders?user_id=lister&start_date={today}&end_date={today}")) == 3
    assert await api.call("GET", f"/orders?user_id=lister&start_date={soon().replace('+', '%2B')}") == []
    assert await api.call("GET", "/orders?user_id=lister&end_date=2020-01-01") == []


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=x", "limit=101", "limit=1.0", "status=lost", "start_date=yesterday", "page=1&page=2",
     "userid=7", "end_date=2026-02-30", "user_id=%00"],
)  # fmt: skip
async def test_bad_queries_are_named(api: Api, query: str) -> None:
    error = await api.call("GET", f"/orders?{query}", status=400)
    assert error["details"][0]["field"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (b'{"user_id": 1, "user_id": 2}', {}, "body"),
        (b"{}", {"Content-Type": "text/plain"}, "Content-Type"),
        (b'{"a": "\xff"}', {"Content-Type": "application/json"}, "body"),
        (json.dumps({**ORDER, "shipping_address": "a\u0000b"}).encode(), {}, "shipping_address"),
        (json.dumps({**ORDER, "payment_method": "a\u0007b"}).encode(), {}, "payment_method"),
        (json.dumps({**ORDER, "user_id": " 7"}).encode(), {}, "user_id"),
    ],
)
async def test_bad_bodies_are_named(api: Api, body: bytes, headers: dict[str, str], field: str) -> None:
    given = {**KEY, "Content-Type": "application/json", **headers}
    async with api.session.post(f"{api.base_url}/orders", data=body, headers=given) as response:
        assert response.status == 400
        assert field in [detail["field"] for detail in (await response.json())["error"]["details"]]


async def test_customers_see_and_change_only_their_own(api: Api) -> None:
    alice, bob, admin = bearer("alice"), bearer("bob"), bearer("root", "admin")
    order = await api.order(alice, user_id="alice")
    path = f"/orders/{order['id']}"
    for others in ("", "/reservations", "/events"):
        assert (await api.call("GET", path + others, status=404, headers=bob))["code"] == "ORDER_NOT_FOUND"
    for change in ("/payment", "/cancel"):
        await api.call("POST", path + change, status=403, headers=bob)
    await api.call("PATCH", f"{path}/status", {"status": "cancelled"}, status=403, headers=bob)
    await api.call("POST", "/orders", {**ORDER, "user_id": "alice"}, status=403, headers=bob)
    await api.call("GET", "/orders?user_id=alice", status=403, headers=bob)
    assert await api.call("GET", "/orders", headers=bob) == []
    assert [found["id"] for found in await api.call("GET", "/orders", headers=alice)] == [order["id"]]
    hold = f"/reservations/{order['reservations'][0]['reservation_id']}"
    await api.call("GET", hold, status=404, headers=bob)
    await api.call("GET", hold, headers=alice)
    await api.call("POST", f"{path}/payment", headers=alice)
    await api.call("PATCH", f"{path}/status", {"status": "shipped"}, status=403, headers=alice)
    await api.call("GET", path, headers=admin)
    cancelled = await api.call("POST", f"{path}/cancel", headers=admin)
    assert cancelled["cancellation_reason"] == "admin"


async def test_what_needs_which_role(api: Api) -> None:
    count = {"product_id": 1, "warehouse_id": 2, "quantity": 100}
    for headers in (SHOP, bearer("alice"), {**bearer("alice"), **SHOP}):
        assert (await api.call("POST", "/inventory/update", count, status=403, headers=headers))["code"]
        await api.call("POST", "/reservations/cleanup", status=403, headers=headers)
    await api.call("POST", "/inventory/update", count, headers={**bearer("root", "admin"), **SHOP})
    held = {"order_id": 5, **ITEM, "expires_at": soon()}
    await api.call("POST", "/reservations", held, status=403, headers=bearer("alice"))
    await api.call("POST", "/reservations", held, status=201, headers=SHOP)
    await api.call("GET", "/inventory/1/1", headers=bearer("alice"))


async def test_tokens(api: Api) -> None:
    for name, password in (("customer", "wrong"), ("nobody", "customer")):
        await api.call("POST", "/auth/token", {"username": name, "password": password}, status=401, headers={})
    token = await api.call("POST", "/auth/token", {"username": "customer", "password": "customer"}, headers={})
    person = {**KEY, "Authorization": f"{token['token_type']} {token['access_token']}"}
    assert (await api.order(person))["user_id"] == 7
    claims = {"sub": "es", "role": "customer", "iss": "order-service", "aud": "order-service", "exp": time.time() + 9}
    signed = jwt.encode(claims, JWKS_KEY, "ES256", headers={"kid": "k1"})
    assert await api.call("GET", "/orders", headers={**KEY, "Authorization": f"Bearer {signed}"}) == []
    unsigned = jwt.encode(claims, "", "none")
    for bad in (
        {**KEY, "Authorization": "Basic abc"},
        {**KEY, "Authorization": "Bearer abc"},
        {**KEY, "Authorization": f"Bearer {unsigned}"},
        {**KEY, "Authorization": f"Bearer {signed[:-9]}AAAAAAAAA"},
        {**KEY, "Authorization": "Bearer " + jwt.encode(claims, "k" * 32, "HS256", headers={"kid": "k1"})},
        bearer("alice", exp=time.time() - 60),
        bearer("alice", aud="another"),
        bearer("alice", iss="another"),
        bearer("x" * 65),
        bearer("7 "),
        {"Authorization": bearer("alice")["Authorization"]},
    ):
        assert (await api.call("GET", "/orders", status=401, headers=bad))["code"] == "UNAUTHENTICATED"


async def test_keys_are_rotated_without_a_restart(api: Api, keys_file: Path) -> None:
    new, old = {"X-API-Key": key_of("another")}, key_entry(SERVICE_KEY, "shop", "service")
    await api.call("GET", "/orders", status=401, headers=new)
    await asyncio.to_thread(keys_file.write_text, json.dumps([key_entry(key_of("another"), "shop-2", "service"), old]))
    await api.until("GET", "/orders", 200, new)
    await api.call("GET", "/orders", headers=SHOP)
    await asyncio.to_thread(keys_file.write_text, json.dumps([old]))
    await api.until("GET", "/orders", 401, new)


async def test_events_are_replayed_and_streamed(api: Api) -> None:
    order = await api.order(user_id="alice")
    path = f"{api.base_url}/orders/{order['id']}/events"
    seen: list[dict[str, Any]] = []
    async with api.session.get(path, headers=bearer("alice")) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["X-Request-ID"]
        paying = None
        async for raw in stream.content:
            if raw.startswith(b"data: "):
                seen.append(json.loads(raw[6:]))
            elif raw.startswith(b": still here") and paying is None:
                paying = asyncio.create_task(api.call("POST", f"/orders/{order['id']}/cancel"))
        assert paying is not None
        await paying
    assert [event["status"] for event in seen] == ["pending_reservation", "pending", "cancelled", "cancelled"]
    assert {event["actor"] for event in seen} == {None}
    rest = {**KEY, "Last-Event-ID": str(seen[1]["id"])}
    async with api.session.get(path, headers=rest) as stream:
        lines = (await stream.text()).splitlines()
    assert [json.loads(line[6:])["id"] for line in lines if line.startswith("data")] == [seen[2]["id"], seen[3]["id"]]
    async with api.session.get(path, headers={**KEY, "Last-Event-ID": str(seen[3]["id"])}) as stream:
        assert stream.status == 204
    await api.call("GET", f"/orders/{order['id']}/events", status=400, headers={**KEY, "Last-Event-ID": "x"})


async def test_browsers_of_configured_origins(api: Api) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    async with api.session.options(f"{api.base_url}/orders", headers=asked) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert "X-API-Key" in response.headers["Access-Control-Allow-Headers"]
    for origin, allowed in (("https://shop.example", "https://shop.example"), ("https://evil.example", None)):
        async with api.session.get(f"{api.base_url}/orders", headers={"Origin": origin}) as response:
            assert response.status == 401
            assert response.headers.get("Access-Control-Allow-Origin") == allowed


async def test_the_page_works_offline(api: Api) -> None:
    root = api.base_url.removesuffix("/api/v1")
    async with api.session.get(f"{root}/swagger") as response:
        assert str(response.url) == f"{root}/swagger/"
        page = await response.text()
    assert "http://" not in page
    assert "https://" not in page
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"):
        assert name in page
        async with api.session.get(f"{root}/swagger/{name}") as response:
            assert response.status == 200
    async with api.session.get(f"{root}/swagger/..%2fcore.py") as response:
        assert response.status == 404


async def test_what_is_no_http_is_answered_in_the_envelope_too(api: Api) -> None:
    async with api.session.request("PURGE", f"{api.base_url}/orders", headers=KEY) as response:
        assert response.status == 405
        assert (await response.json())["error"]["code"] == "METHOD_NOT_ALLOWED"
    for text_ in (b"FOO /api/v1/orders HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.base_url.split(":")[2].partition("/")[0]))
        writer.write(text_)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 400 " in head.partition(b"\r\n")[0]
        error = json.loads(body)["error"]
        assert error["code"] == "INVALID_ARGUMENT"
        assert error["request_id"]


async def test_releasing_the_hold_of_an_order_cancels_the_order(api: Api) -> None:
    for number in range(3):
        order = await api.order()
        [held] = order["reservations"]
        assert (held["order_id"], held["is_active"]) == (order["id"], True)
        path = f"/reservations/{held['id'] if number else held['reservation_id']}"
        assert (await api.call("GET", path))["order_id"] == order["id"]
        if number < 2:
            released = await api.call("POST", f"{path}/deactivate", {"reason": "out of season"})
        else:
            named = {"order_id": order["id"], "reservation_id": held["reservation_id"]}
            released = await api.call("POST", "/inventory/release", named)
        assert (released["order_id"], released["status"], released["is_active"]) == (order["id"], "cancelled", False)
        ended = await api.call("GET", f"/orders/{order['id']}")
        assert (ended["status"], ended["cancellation_reason"]) == ("cancelled", "admin")
        assert (await api.call("POST", f"/orders/{order['id']}/pay", {}, status=409))["code"] == "INVALID_ORDER_STATE"
        # Once more changes nothing.
        assert (await api.call("POST", f"{path}/deactivate", {}))["status"] == "cancelled"


async def test_the_hold_of_an_order_is_sold_by_paying_the_order(api: Api) -> None:
    order = await api.order()
    named = {"order_id": order["id"], "reservation_id": order["reservations"][0]["reservation_id"]}
    refused = await api.call("POST", "/inventory/confirm", named, status=409)
    assert (refused["code"], refused["details"][0]["order_id"]) == ("HOLD_OF_ORDER", order["id"])
    assert f"/orders/{order['id']}/payment" in refused["message"]
    await api.call("POST", f"/orders/{order['id']}/payment", {})
    assert (await api.call("POST", "/inventory/confirm", named))["is_confirmed"]
    released = f"/reservations/{named['reservation_id']}/deactivate"
    assert (await api.call("POST", released, {}, status=409))["code"] == "RESERVATION_COMMITTED"
    assert (await api.call("GET", f"/orders/{order['id']}"))["status"] == "paid"


async def test_a_direct_hold_for_the_number_of_an_order_is_not_the_orders(api: Api) -> None:
    order = await api.order()
    body = {**ITEM, "order_id": str(order["id"]), "expires_at": soon()}
    stranger = await api.call("POST", "/reservations", body, status=201)
    customer = bearer("7")
    assert (await api.call("GET", f"/reservations/{stranger['id']}", status=404, headers=customer))["code"]
    own = await api.call("GET", f"/orders/{order['id']}/reservations", headers=customer)
    assert [hold["reservation_id"] for hold in own] == [order["reservations"][0]["reservation_id"]]
    await api.call("POST", f"/reservations/{stranger['id']}/deactivate", {})
    assert (await api.call("GET", f"/orders/{order['id']}"))["status"] == "pending"
    again = await api.call("POST", "/reservations", body, status=201)
    named = {"order_id": order["id"], "reservation_id": again["id"]}
    assert (await api.call("POST", "/inventory/confirm", named))["is_confirmed"]
    assert (await api.call("POST", f"/orders/{order['id']}/pay", {}))["status"] == "paid"


async def test_admins_are_told_why_an_order_is_as_it_is(api: Api, orders_url: str) -> None:
    placed = await api.order()
    path = f"/orders/{placed['id']}/why"
    explained = await api.call("GET", path)
    assert explained["why"] == [
        f"it waits for its payment until {placed['payment_deadline'][:19].replace('T', ' ')} UTC; then it is cancelled"
    ]
    [held] = explained["warehouse"]
    assert (held["reservation_id"], held["state"]) == (placed["reservations"][0]["reservation_id"], "reserved")
    assert [one["event"] for one in explained["history"]] == ["created", "reserved"]
    assert (explained["steps"], explained["disagreement"]) == ([], None)
    sql(
        orders_url,
        "INSERT INTO intents (order_id, step, due_at, attempts, last_error, created_at)"
        " VALUES (%s, 'commit', NOW(6) + INTERVAL 1 HOUR, 3, 'away', NOW(6))",
        placed["id"],
    )
    [step] = (await api.call("GET", path))["steps"]
    assert (step["step"], step["attempts"], step["last_error"], step["parked_at"]) == ("commit", 3, "away", None)
    assert step["request_id"].endswith("-commit")
    assert (await api.call("GET", path, status=403, headers=SHOP))["code"] == "PERMISSION_DENIED"
    assert (await api.call("GET", "/orders/999999/why", status=404))["code"] == "ORDER_NOT_FOUND"
