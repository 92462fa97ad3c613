"""Customers don't name prices: whatever a person sends, what is paid is the list price, or there is no order."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from google.type.money_pb2 import Money

from order_gateway.access import DEVELOPMENT_JWT_SECRET
from stockwarden_client import ClientSettings, WarehouseClient
from stockwarden_client.v1.stock_pb2 import CreateProductRequest
from tests.conftest import MakeDatabase
from tests.kits.attacked import NOT_LIMITED, ORDERS, WISH, Attacked, attacked, http, statuses
from tests.kits.processes import Processes

pytestmark = [pytest.mark.sql, pytest.mark.e2e, pytest.mark.usefixtures("unsurprised")]
PRICED, UNPRICED, FREE, IN_YEN = 1, 101, 102, 103
MODES = ("grpc", "queued", "auto")


@pytest.fixture(scope="module", autouse=True)
def _products(shop: Attacked) -> None:
    """One without a price, one for nothing, one in another currency, beside the demo's that costs 19.99 USD."""
    asyncio.run(_make_products(shop.target))


async def _make_products(target: str) -> None:
    prices = {UNPRICED: None, FREE: Money(currency_code="USD"), IN_YEN: Money(currency_code="JPY", units=500)}
    async with WarehouseClient(ClientSettings(target=target)) as warehouse:
        for product_id, price in prices.items():
            request = CreateProductRequest(
                request_id=f"p{product_id}", product_id=product_id, sku=f"P{product_id}", name="P", list_price=price
            )
            await warehouse.create_product(request)
            await warehouse.add_stock(product_id, 1, 100, request_id=f"s{product_id}")


@pytest.fixture(params=MODES)
def mode(shop: Attacked, request: pytest.FixtureRequest) -> Iterator[str]:
    """The way that orders take while a test runs."""
    yield _switch(shop, request.param)
    _switch(shop, "grpc")


def _switch(shop: Attacked, mode: str) -> str:
    body = json.dumps({"mode": mode}).encode()
    assert statuses(shop.send(http("PUT", "/api/v1/config/warehouse", body))) == [200]
    return mode


def _person(role: str = "customer") -> dict[str, str]:
    claims = {"sub": "7", "role": role, "iss": "order-service", "aud": "order-service", "exp": time.time() + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, DEVELOPMENT_JWT_SECRET, 'HS256')}"}


def _place(shop: Attacked, headers: dict[str, str], *items: dict[str, Any], **fields: Any) -> tuple[int, Any]:
    wish = {**WISH, "items": [{"warehouse_id": 1, "quantity": 1, **item} for item in items], **fields}
    answered = shop.send(http("POST", ORDERS, json.dumps(wish).encode(), headers))
    [status] = statuses(answered)
    answer = json.loads(answered.partition(b"\r\n\r\n")[2])
    return status, answer["data"] if status < 400 else answer["error"]["code"]


NAMED: tuple[dict[str, Any], ...] = (
    {},
    {"unit_price": 0},
    {"unit_price": "0"},
    {"unit_price": "0.00"},
    {"unit_price": 0.01},
    {"unit_price": 1e-9},
    {"unit_price": -0.0},
    {"unit_price": None},
    {"unit_price": 19.99},
)


@pytest.mark.parametrize("role", ["customer", "admin"])
def test_a_person_buys_nothing_that_has_no_price(shop: Attacked, mode: str, role: str) -> None:
    for named in NAMED:
        for fields in ({}, {"currency": "USD"}, {"currency": "JPY"}):
            told = _place(shop, _person(role), {"product_id": UNPRICED, **named}, **fields)
            is_price = str(named.get("unit_price")) not in ("1e-09", "-0.0")
            assert told == ((409, "PRICE_UNKNOWN") if is_price else (400, "INVALID_ARGUMENT")), (mode, named, fields)
    # Neither does another line pay for it.
    for other in (PRICED, FREE):
        lines = ({"product_id": other}, {"product_id": UNPRICED, "unit_price": 0})
        assert _place(shop, _person(role), *lines) == (409, "PRICE_UNKNOWN")
        assert _place(shop, _person(role), *reversed(lines)) == (409, "PRICE_UNKNOWN")


def test_a_person_pays_the_list_price(shop: Attacked, mode: str) -> None:
    placed = (201, 202)
    for named in NAMED:
        status, told = _place(shop, _person(), {"product_id": PRICED, **named})
        if named.get("unit_price") in (None, 19.99):
            assert (status in placed, told["total_amount"], told["currency"]) == (True, 19.99, "USD")
        else:
            assert (status, told) in ((409, "PRICE_MISMATCH"), (400, "INVALID_ARGUMENT")), named
    # The same product twice, once as it is and once for nothing.
    lines = ({"product_id": PRICED}, {"product_id": PRICED, "unit_price": 0})
    assert _place(shop, _person(), *lines) == (409, "PRICE_MISMATCH")


def test_what_costs_nothing_is_free_and_nothing_else_with_it(shop: Attacked, mode: str) -> None:
    status, told = _place(shop, _person(), {"product_id": FREE})
    assert (status in (201, 202), told["total_amount"]) == (True, 0)
    status, told = _place(shop, _person(), {"product_id": FREE, "unit_price": 0}, {"product_id": PRICED})
    assert (status in (201, 202), told["total_amount"]) == (True, 19.99)
    assert _place(shop, _person(), {"product_id": FREE, "unit_price": 1}) == (409, "PRICE_MISMATCH")


def test_a_currency_is_not_the_customers_to_say(shop: Attacked, mode: str) -> None:
    assert _place(shop, _person(), {"product_id": PRICED}, currency="JPY") == (409, "CURRENCY_MISMATCH")
    assert _place(shop, _person(), {"product_id": IN_YEN}, currency="USD") == (409, "CURRENCY_MISMATCH")
    assert _place(shop, _person(), {"product_id": PRICED}, {"product_id": IN_YEN}) == (409, "CURRENCY_MISMATCH")
    status, told = _place(shop, _person(), {"product_id": IN_YEN, "unit_price": 500})
    assert (status in (201, 202), told["total_amount"], told["currency"]) == (True, 500, "JPY")


def test_a_service_names_the_price_of_what_has_none(shop: Attacked, mode: str) -> None:
    status, told = _place(shop, {}, {"product_id": UNPRICED, "unit_price": 3.5}, currency="USD")
    assert (status in (201, 202), told["total_amount"]) == (True, 3.5)
    assert _place(shop, {}, {"product_id": UNPRICED}) == (400, "INVALID_ARGUMENT")
    assert _place(shop, {}, {"product_id": PRICED, "unit_price": 0}) == (409, "PRICE_MISMATCH")


UNKNOWN = 999


@pytest.fixture(scope="module", params=["queued", "auto"])
def recalling(
    make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Attacked]:
    """A gateway that has just begun, while the warehouse is away: what it knows of prices is in its database."""
    processes, orders_url = Processes(tmp_path_factory.mktemp("recalling")), make_database("orders")
    settings = {**NOT_LIMITED, "ORDERS_GATEWAY": request.param}
    with attacked(processes, make_database("warehouse"), orders_url, settings) as before:
        asyncio.run(_make_products(before.target))
        for product_id in (PRICED, UNPRICED, FREE, IN_YEN):
            looked = _place(before, {}, {"product_id": product_id, "unit_price": 9999})
            assert looked[0] in (201, 202) if product_id == UNPRICED else looked == (409, "PRICE_MISMATCH")
        before.gateway.stop()
        before.warehouse.stop()
        gateway, _ = processes.order_gateway(orders_url, before.target, port=before.port, settings=settings)
        yield Attacked(gateway, before.warehouse, before.port, before.target, before.metrics_port)


@pytest.mark.parametrize("role", ["customer", "admin"])
def test_a_person_names_no_price_while_prices_are_only_recalled(recalling: Attacked, role: str) -> None:
    shop, person = recalling, _person(role)
    for named in ({}, {"unit_price": 0}, {"unit_price": "0.00"}, {"unit_price": 0.01}, {"unit_price": None}):
        for fields in ({}, {"currency": "USD"}):
            told = _place(shop, person, {"product_id": UNPRICED, **named}, **fields)
            assert told == (409, "PRICE_UNKNOWN"), (named, fields)
        lines = ({"product_id": FREE}, {"product_id": UNPRICED, **named})
        assert _place(shop, person, *lines) == (409, "PRICE_UNKNOWN")
        status, told = _place(shop, person, {"product_id": PRICED, **named})
        if named.get("unit_price") is None:
            assert (status, told["total_amount"], told["currency"]) == (202, 19.99, "USD")
        else:
            assert (status, told) == (409, "PRICE_MISMATCH"), named
    assert _place(shop, person, {"product_id": PRICED}, currency="JPY") == (409, "CURRENCY_MISMATCH")
    status, told = _place(shop, person, {"product_id": IN_YEN})
    assert (status, told["total_amount"], told["currency"]) == (202, 500, "JPY")


def test_what_nobody_recalls_is_not_sold_at_any_price(recalling: Attacked) -> None:
    for named in ({}, {"unit_price": 0}, {"unit_price": 19.99}):
        for headers in ({}, _person(), _person("admin")):
            status, told = _place(recalling, headers, {"product_id": UNKNOWN, **named})
            assert status == 503, told
    status, told = _place(recalling, {}, {"product_id": UNPRICED, "unit_price": 3.5}, currency="USD")
    assert (status, told["total_amount"]) == (202, 3.5)
