"""The HTTP contract: envelope, ids, keys, validation, errors, Idempotency-Key."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from order_gateway.gateway.modes import Choice
from order_gateway.gateway.port import GatewayFault
from order_gateway.lifecycle import Order, Way
from order_gateway.payments import Declined
from service_kit.batcher import BatcherFull
from tests.kits.orders_api import COUNTED_MAX, ITEM, KEY, ORDER, Api, serving_orders
from tests.kits.scripted_orders import AWAY, SHORT
from tests.kits.warehouse_kit import nobody_reads, scalar

pytestmark = pytest.mark.sql


@pytest.fixture
async def api(orders_database_url: str) -> AsyncIterator[Api]:
    async with serving_orders(orders_database_url) as made:
        yield made


async def test_an_order_from_stock_to_shipped(api: Api) -> None:
    order = await api.call("POST", "/api/v1/orders", ORDER, status=201)
    assert order["status"] == "pending"
    assert order["user_id"] == 7
    assert order["total_amount"] == 39.98
    assert order["items"][0]["unit_price"] == 19.99
    assert order["reservations"][0]["is_active"] is True
    path = f"/api/v1/orders/{order['id']}"
    assert await api.call("GET", path, status=200) == order
    paid = await api.call("POST", f"{path}/payment", {"payment_reference": "r-1"}, status=200)
    assert paid["status"] == "paid"
    assert (await api.call("POST", f"{path}/pay", status=409))["code"] == "INVALID_ORDER_STATE"
    assert (await api.call("PATCH", f"{path}/status", {"status": "shipped"}, status=200))["status"] == "shipped"
    assert (await api.call("POST", f"{path}/cancel", status=409))["code"] == "INVALID_ORDER_STATE"
    assert (await api.call("PATCH", f"{path}/status", {"status": "completed"}, status=200))["status"] == "completed"


async def test_cancel(api: Api) -> None:
    order = await api.call("POST", "/api/v1/orders", ORDER, status=201)
    path = f"/api/v1/orders/{order['id']}/status"
    cancelled = await api.call("PATCH", path, {"status": "cancelled", "reason": "changed my mind"}, status=200)
    assert cancelled["status"] == "cancelled"
    assert cancelled["cancellation_reason"] == "customer"
    assert cancelled["reservations"][0]["is_active"] is False
    await api.call("PATCH", path, {"status": "cancelled"}, status=200)
    await api.call("PATCH", path, {"status": "paid"}, status=409)


async def test_refusals_and_faults(api: Api) -> None:
    api.outside.script = {"reserve": [SHORT, AWAY]}
    short = await api.call("POST", "/api/v1/orders", ORDER, status=409)
    assert short["code"] == "INSUFFICIENT_STOCK"
    assert short["details"] == [{"product_id": 1, "requested": 2, "available": 0}]
    away = await api.call("POST", "/api/v1/orders", ORDER, status=503)
    assert away["code"] == "WAREHOUSE_UNAVAILABLE"
    assert (await api.call("GET", "/api/v1/orders/1", status=200))["status"] == "rejected"
    assert (await api.call("GET", "/api/v1/orders/2", status=200))["cancellation_reason"] == "reservation_timeout"
    unknown = {**ORDER, "items": [{**ITEM, "product_id": 99}]}
    assert (await api.call("POST", "/api/v1/orders", unknown, status=404))["code"] == "PRODUCT_NOT_FOUND"
    mismatch = {**ORDER, "items": [{**ITEM, "unit_price": "1.00"}]}
    assert (await api.call("POST", "/api/v1/orders", mismatch, status=409))["code"] == "PRICE_MISMATCH"


async def test_where_no_order_can_begin_nobody_waits_for_prices(api: Api) -> None:
    choices: list[Choice | GatewayFault] = [AWAY, Choice(Way.GRPC), Choice(Way.GRPC)]

    def choose() -> Choice:
        choice = choices.pop(0)
        if isinstance(choice, GatewayFault):
            raise choice
        return choice

    api.world.saga._choose = choose
    anywhere = {**ORDER, "items": [{"product_id": 1, "quantity": 2}]}
    away = await api.call("POST", "/api/v1/orders", anywhere, status=503)
    assert (away["code"], api.outside.looks) == ("WAREHOUSE_UNAVAILABLE", [])
    order = await api.call("POST", "/api/v1/orders", anywhere, status=201)
    assert (order["items"][0]["warehouse_id"], order["items"][0]["any_warehouse"]) == (1, True)
    assert api.outside.looks == ["products", "available"]


async def test_by_the_queue_an_order_may_wait_for_its_warehouse(api: Api) -> None:
    api.world.saga._choose = lambda: Choice(Way.QUEUED)
    anywhere = {**ORDER, "items": [{"product_id": 1, "quantity": 2}, ITEM]}
    order = await api.call("POST", "/api/v1/orders", anywhere, status=202)
    assert [item["warehouse_id"] for item in order["items"]] == [None, 1]
    path = f"/api/v1/orders/{order['id']}"
    assert await api.call("GET", path, status=200) == order
    cancelled = await api.call("POST", f"{path}/cancel", status=200)
    assert (cancelled["status"], cancelled["items"]) == ("cancelled", order["items"])
    assert api.outside.looks == ["products"]


async def test_a_declined_payment(api: Api) -> None:
    order = await api.call("POST", "/api/v1/orders", ORDER, status=201)
    api.outside.script = {"charge": [Declined("no")]}
    path = f"/api/v1/orders/{order['id']}"
    assert (await api.call("POST", f"{path}/payment", {}, status=422))["code"] == "PAYMENT_DECLINED"
    assert (await api.call("GET", path, status=200))["cancellation_reason"] == "payment_declined"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": None}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 0}, "user_id"),
        ({"user_id": "x" * 65}, "user_id"),
        ({"shipping_address": ""}, "shipping_address"),
        ({"shipping_address": "x" * 1001}, "shipping_address"),
        ({"shipping_address": {"street": "x"}}, "shipping_address"),
        ({"payment_method": 5}, "payment_method"),
        ({"items": []}, "items"),
        ({"items": "x"}, "items"),
        ({"items": [ITEM] * 101}, "items"),
        ({"items": [{**ITEM, "quantity": 0}]}, "items.0.quantity"),
        ({"items": [{**ITEM, "quantity": 1_000_001}]}, "items.0.quantity"),
        ({"items": [{**ITEM, "quantity": 1.5}]}, "items.0.quantity"),
        ({"items": [{**ITEM, "quantity": "1"}]}, "items.0.quantity"),
        ({"items": [{**ITEM, "product_id": 2**63}]}, "items.0.product_id"),
        ({"items": [{**ITEM, "product_id": -1}]}, "items.0.product_id"),
        ({"items": [{**ITEM, "unit_price": -1}]}, "items.0.unit_price"),
        ({"items": [{**ITEM, "unit_price": 1.001}]}, "items.0.unit_price"),
        ({"items": [{**ITEM, "unit_price": 1e400}]}, "body"),
        ({"items": [{**ITEM, "unit_price": "1e9999999"}]}, "items.0.unit_price"),
        ({"items": [{**ITEM, "colour": "red"}]}, "items.0.colour"),
        ({"extra": 1}, "extra"),
    ],
)
async def test_bad_fields_are_named(api: Api, change: dict[str, Any], field: str) -> None:
    error = await api.call("POST", "/api/v1/orders", {**ORDER, **change}, status=400)
    assert error["code"] == "INVALID_ARGUMENT"
    assert field in [detail["field"] for detail in error["details"]]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"user_id": "\\ud800"}',
        b'{"user_id": ' + b"9" * 5000 + b"}",
        b'{"items": [{"unit_price": 1e999999999999999999999}]}',
    ],
    ids=range(9),
)
async def test_bodies_that_are_no_orders(api: Api, body: bytes) -> None:
    assert (await api.call("POST", "/api/v1/orders", body, status=400))["details"]


async def test_everything_else_is_in_the_envelope_too(api: Api) -> None:
    assert (await api.call("GET", "/nowhere", status=404))["code"] == "NOT_FOUND"
    assert (await api.call("DELETE", "/api/v1/orders/1", status=405))["code"] == "METHOD_NOT_ALLOWED"
    assert (await api.call("POST", "/api/v1/orders", b"x" * 1_048_577, status=413))["code"] == "BODY_TOO_LARGE"
    assert (await api.call("GET", "/api/v1/orders/17", status=404))["code"] == "ORDER_NOT_FOUND"
    for bad in ("abc", "0", "-1", "9" * 19, "%00", "%D9%A1"):
        await api.call("GET", f"/api/v1/orders/{bad}", status=400)
    assert (await api.call("GET", "/api/v1/orders/1", status=401, headers={}))["code"] == "UNAUTHENTICATED"
    await api.call("GET", "/api/v1/orders/1", status=401, headers={"X-API-Key": "wrong"})
    for path in ("/health", "/api/v1/health", "/ready"):
        await api.call("GET", path, status=200, headers={})


async def test_ids_travel(api: Api) -> None:
    headers = {**KEY, "X-Request-ID": "r-1", "X-Correlation-ID": "c-9"}
    async with api.client.get("/api/v1/orders/1", headers=headers) as response:
        assert response.headers["X-Request-ID"] == "r-1"
        assert response.headers["X-Correlation-ID"] == "c-9"
        assert (await response.json())["error"]["request_id"] == "r-1"
    async with api.client.get("/health", headers={"X-Request-ID": "no good " * 20}) as response:
        assert len(response.headers["X-Request-ID"]) == 32


async def test_the_same_key_and_body_answer_the_same(api: Api) -> None:
    headers = {**KEY, "Idempotency-Key": "k-1"}
    first = await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers)
    path = f"/api/v1/orders/{first['id']}/payment"
    await api.call("POST", path, {}, status=200, headers={**KEY, "Idempotency-Key": "k-2"})
    assert await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers) == first
    assert (await api.call("POST", path, {}, status=200, headers={**KEY, "Idempotency-Key": "k-2"}))["status"] == "paid"
    other = {**ORDER, "user_id": 8}
    assert (await api.call("POST", "/api/v1/orders", other, status=409, headers=headers))["code"] == "REQUEST_ID_REUSED"
    assert api.outside.names() == ["reserve", "authorise", "charge", "commit"]


async def test_a_key_whose_request_failed_for_a_while_may_try_again(api: Api) -> None:
    api.outside.script = {"reserve": [AWAY]}
    headers = {**KEY, "Idempotency-Key": "k-1"}
    await api.call("POST", "/api/v1/orders", ORDER, status=503, headers=headers)
    order = await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers)
    assert order["id"] == 2


async def test_a_key_whose_request_died_gets_the_order_it_made(api: Api) -> None:
    headers = {**KEY, "Idempotency-Key": "k-1"}
    first = await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers)
    await api.world.execute("UPDATE idempotency_keys SET status = NULL, body = NULL")
    assert (await api.call("POST", "/api/v1/orders", ORDER, status=409, headers=headers))[
        "code"
    ] == "REQUEST_IN_PROGRESS"
    await api.world.execute("UPDATE idempotency_keys SET claimed_until = NOW(6)")
    assert await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers) == first


async def test_a_request_that_was_overtaken_makes_no_second_order(
    api: Api, orders_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was held up, in a frozen process, say, for longer than its claim on the key."""
    headers = {**KEY, "Idempotency-Key": "k-1"}
    create, is_held_up, may_go_on = api.world.store.create, asyncio.Event(), asyncio.Event()

    async def held_up(*arguments: Any) -> Order:
        is_held_up.set()
        await may_go_on.wait()
        return await create(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(api.world.store, "create", held_up)
        overtaken = asyncio.create_task(api.call("POST", "/api/v1/orders", ORDER, status=409, headers=headers))
        await is_held_up.wait()
    await api.world.execute("UPDATE idempotency_keys SET claimed_until = NOW(6)")
    order = await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers)
    may_go_on.set()
    assert (await overtaken)["code"] == "REQUEST_IN_PROGRESS"
    assert await api.call("POST", "/api/v1/orders", ORDER, status=201, headers=headers) == order
    assert scalar(orders_database_url, "SELECT COUNT(*) FROM orders") == 1


async def test_many_at_once_with_one_key_make_one_order(api: Api) -> None:
    headers = {**KEY, "Idempotency-Key": "k-1"}

    async def post() -> int:
        async with api.client.post("/api/v1/orders", json=ORDER, headers=headers) as response:
            await response.read()
            return response.status

    statuses = await asyncio.gather(*(post() for _ in range(20)))
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    assert api.outside.names() == ["reserve"]


async def test_a_long_list_is_counted_up_to_a_bound(api: Api) -> None:
    made = [(await api.call("POST", "/api/v1/orders", ORDER, status=201))["id"] for _ in range(COUNTED_MAX + 2)]
    async with api.client.get("/api/v1/orders?limit=2&page=2", headers=KEY) as response:
        answer = await response.json()
    assert [order["id"] for order in answer["data"]] == [made[2], made[1]]
    assert answer["meta"] == {"page": 2, "limit": 2, "total": COUNTED_MAX, "total_page": 2}


async def test_what_is_too_much_for_the_batches_is_told_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_order_id: int) -> None:
        raise BatcherFull

    monkeypatch.setattr(api.world.store, "read", full)
    assert (await api.call("GET", "/api/v1/orders/1", status=429))["code"] == "TOO_MANY_REQUESTS"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Authorization: Bearer a\xff\xc4b", 401),
        (b"Idempotency-Key: \xff", 400),
        (b"Content-Type: \xff/json", 400),
        (b"Content-Encoding: gzip", 400),
        *((name + b": a\xff\xc4b", 400) for name in (b"X-Correlation-ID", b"traceparent", b"Origin", b"Accept")),
    ],
    ids=lambda given: given.partition(b":")[0].decode() if isinstance(given, bytes) else "",
)
async def test_headers_that_are_no_text_or_untrue_are_no_fault_of_ours(api: Api, header: bytes, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    key = b"X-API-Key: order-service-api-key"
    lines = [b"POST /api/v1/orders HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Length: 2", key, header]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n{}")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert int(head.split()[1]) == status
    assert json.loads(body)["error"]["request_id"]


async def test_it_is_ready_while_lists_wait(api: Api, orders_database_url: str) -> None:
    """Lists that don't get on leave connections for others."""
    await api.call("POST", "/api/v1/orders", ORDER, status=201)

    async def list_() -> int:
        async with api.client.get("/api/v1/orders?user_id=7", headers=KEY) as response:
            return response.status

    async with nobody_reads(orders_database_url, "orders"):
        lists = [asyncio.create_task(list_()) for _ in range(20)]
        await asyncio.wait(lists, timeout=0.5)
        async with asyncio.timeout(2):
            ready = await api.call("GET", "/ready", status=200)
        assert ready["checks"]["database"]["ok"]
        assert not any(task.done() for task in lists)
    assert await asyncio.gather(*lists) == [200] * 20
