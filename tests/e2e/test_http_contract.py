"""The order service's contract, call by call and field by field, with the lines that its clients send: real curl.

Each step is a line of the contract: what is sent, the status, and the fields that the answer must have. The words in
braces come from answers before it.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import MakeDatabase
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
ORDER_FIELDS = {
    *("id", "user_id", "status", "total_amount", "shipping_address", "payment_method", "payment_deadline"),
    *("cancellation_reason", "created_at", "updated_at", "items", "reservations"),
}
ITEM_FIELDS = {"id", "product_id", "warehouse_id", "quantity", "unit_price", "total_price"}
ORDER_HOLD_FIELDS = {
    *("id", "reservation_id", "order_id", "product_id", "warehouse_id", "quantity", "expires_at", "is_active"),
    *("is_confirmed", "created_at"),
}
LEVEL_FIELDS = {
    *("product_id", "warehouse_id", "quantity", "reserved_quantity", "available_quantity", "created_at", "updated_at"),
}
RESERVED_FIELDS = {"reservation_id", "order_id", "reserved_until", "items", "message"}
LINE_FIELDS = {"product_id", "warehouse_id", "quantity"}
META_FIELDS = {"page", "limit", "total", "total_page"}
ERROR_FIELDS = {"code", "message", "details", "request_id"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

LATER = {
    *("POST /inventory", "GET /inventory/product/{id}", "GET /inventory/product/{id}/check"),
    *("GET /inventory/product/{id}/movements", "POST /inventory/product/{id}/add-stock"),
    *("POST /inventory/product/{id}/remove-stock", "POST /inventory/product/{id}/adjust-stock"),
    *("POST /inventory/product/{id}/transfer", "GET /inventory/low-stock", "GET /inventory/summary"),
    *("POST /products", "PUT /products/{id}", "DELETE /products/{id}"),
    "DELETE /dead-letters/{id}",
}
"""Parts of the contract that are not there yet."""
CONTRACT = {
    *("POST /orders", "GET /orders", "GET /orders/{id}", "PATCH /orders/{id}/status", "POST /orders/{id}/payment"),
    *("POST /orders/{id}/pay", "POST /orders/{id}/cancel", "GET /orders/{id}/reservations", "GET /orders/{id}/events"),
    *("POST /reservations", "POST /reservations/{id}/deactivate", "POST /reservations/cleanup"),
    *("GET /reservations/{id}", "GET /inventory/{product_id}/{warehouse_id}", "POST /inventory/get"),
    *("POST /inventory/batch", "POST /inventory/check-availability", "POST /inventory/reserve"),
    *("POST /inventory/confirm", "POST /inventory/commit", "POST /inventory/release", "POST /inventory/cancel"),
    *("POST /inventory/update", "GET /products", "GET /products/{id}", "GET /config/warehouse"),
    *("PUT /config/warehouse", "GET /warehouse/health", "POST /auth/token", "GET /dead-letters"),
    "POST /dead-letters/{id}/retry",
}


@dataclass
class Step:
    """A line of the contract.

    Attributes:
        fields: what the data, or each element of a list, must have at least.
        keep: words for later lines, and where in the data they are found.
        says: what must be equal in the data, or in the error.
    """

    line: str
    body: str | None = None
    status: int = 200
    fields: set[str] = field(default_factory=set)
    keep: dict[str, str] = field(default_factory=dict)
    says: dict[str, Any] = field(default_factory=dict)


def order(*items: str) -> str:
    """The body of POST /orders."""
    lines = ", ".join(items or ('{"product_id": 1, "warehouse_id": 1, "quantity": 2}',))
    return (
        '{"user_id": 7, "shipping_address": "Jl. Sudirman No. 1, Jakarta", "payment_method": "credit_card",'
        f' "items": [{lines}]}}'
    )


def item(**fields: str) -> str:
    """An item whose fields are given as JSON."""
    known = {"product_id": "1", "warehouse_id": "1", "quantity": "1", **fields}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in known.items()) + "}"


PLACED = [
    Step("POST /orders", order(), 201, ORDER_FIELDS, {"order": "id", "hold": "reservations.0.reservation_id"}),
    Step(
        "POST /orders",
        order(
            '{"product_id": 1, "warehouse_id": 1, "quantity": 1, "unit_price": 19.99}',
            '{"product_id": 2, "warehouse_id": 2, "quantity": 1, "unit_price": "29.99"}',
            '{"product_id": 3, "quantity": 1}',
        ),
        201,
        ORDER_FIELDS,
        {"paid_order": "id"},
        {"status": "pending", "total_amount": 59.97, "user_id": 7, "cancellation_reason": None},
    ),
    Step("POST /orders", order('{"product_id": 1, "warehouse_id": 1, "quantity": 1, "unit_price": 20}'), 409),
]
ORDERS = [
    *PLACED,
    Step("GET /orders/{order}", fields=ORDER_FIELDS, says={"status": "pending"}),
    Step("GET /orders/{order}?wait=10", fields=ORDER_FIELDS),
    Step("GET /orders/999999", status=404, says={"code": "ORDER_NOT_FOUND"}),
    Step("GET /orders?user_id=&status=&start_date=&end_date=&page=1&limit=10", fields=ORDER_FIELDS),
    Step("GET /orders?user_id=7&status=pending&start_date=2026-01-01&end_date=9999-12-31&page=1&limit=10"),
    Step("GET /orders?start_date=0001-01-01&end_date=9999-12-31T23:59:59.999999999Z", fields=ORDER_FIELDS),
    Step("GET /orders?end_date=0001-01-01T00:00:00Z"),
    Step("GET /orders/{order}/reservations", fields=ORDER_HOLD_FIELDS),
    Step("POST /orders/{paid_order}/payment", '{"payment_method": "credit_card", "payment_reference": "PAY-1"}'),
    Step("POST /orders/{paid_order}/pay", "{}", 409, says={"code": "INVALID_ORDER_STATE"}),
    Step("PATCH /orders/{paid_order}/status", '{"status": "shipped"}', says={"status": "shipped"}),
    Step("POST /orders/{paid_order}/cancel", '{"reason": "too late"}', 409),
    Step("PATCH /orders/{paid_order}/status", '{"status": "completed"}', says={"status": "completed"}),
    Step(
        "POST /orders/{order}/cancel", '{"reason": "changed my mind \N{GRINNING FACE}"}', says={"status": "cancelled"}
    ),
    Step("POST /orders", order(), 201, keep={"order": "id"}),
    Step("PATCH /orders/{order}/status", '{"status": "paid"}', says={"status": "paid"}),
    Step("PATCH /orders/{order}/status", '{"status": "cancelled", "reason": "changed my mind"}'),
    Step("POST /orders", order(), 201, keep={"order": "id"}),
    Step(
        "POST /orders/{order}/pay", '{"payment_reference": "simulate-decline"}', 422, says={"code": "PAYMENT_DECLINED"}
    ),
    Step("GET /orders/{order}", says={"status": "cancelled", "cancellation_reason": "payment_declined"}),
    Step("POST /orders", order('{"product_id": 1, "warehouse_id": 1, "quantity": 1000000}'), 409),
    Step("POST /orders", order('{"product_id": 77, "warehouse_id": 1, "quantity": 1}'), 404),
]
_LINES = f"[{item(quantity='2', unit_price='19.99')}, {item(product_id='2')}]"
INVENTORY = [
    Step("GET /inventory/1/1", fields=LEVEL_FIELDS, says={"product_id": 1, "warehouse_id": 1}),
    Step("GET /inventory/77/1", status=404, says={"code": "PRODUCT_NOT_FOUND"}),
    Step("POST /inventory/get", '{"product_id": 1, "warehouse_id": 1}', fields=LEVEL_FIELDS),
    Step(
        "POST /inventory/batch",
        '{"items": [{"product_id": 1, "warehouse_id": 1}, {"product_id": 77, "warehouse_id": 1}]}',
        says={"missing": [{"product_id": 77, "warehouse_id": 1}]},
    ),
    Step(
        "POST /inventory/check-availability",
        '{"items": [{"product_id": 1, "warehouse_id": 1, "quantity": 5}, {"product_id": 2, "quantity": 5000}]}',
        says={"sufficient": False},
    ),
    Step(
        "POST /inventory/reserve",
        '{"order_id": 4711, "items": ' + _LINES + ', "reserve_until": "{soon}"}',
        201,
        RESERVED_FIELDS,
        {"hold": "reservation_id"},
        {"order_id": 4711, "items.0": {"product_id": 1, "warehouse_id": 1, "quantity": 2}},
    ),
    Step("POST /inventory/confirm", '{"order_id": 4711, "reservation_id": "{hold}"}', says={"is_confirmed": True}),
    Step(
        "POST /inventory/reserve",
        '{"order_id": "4712", "order_items": ' + _LINES + ', "reserve_until": "{soon}"}',
        201,
        RESERVED_FIELDS,
        {"hold": "reservation_id"},
    ),
    Step("POST /inventory/release", '{"order_id": 4712, "reservation_id": "{hold}"}', says={"is_active": False}),
    Step("POST /inventory/cancel", '{"order_id": 4712, "reservation_id": "{hold}"}', says={"is_active": False}),
    Step("POST /inventory/commit", '{"order_id": 4712, "reservation_id": "{hold}"}', 409),
    Step("POST /inventory/commit", '{"order_id": 4713, "reservation_id": "{hold}"}', 404),
    Step("POST /inventory/update", '{"product_id": 3, "warehouse_id": 1, "quantity": 50}', fields=LEVEL_FIELDS),
    Step(
        "POST /inventory/update",
        '{"product_id": 3, "warehouse_id": 2, "quantity": 60, "reserved_quantity": 0}',
        says={"quantity": 60, "reserved_quantity": 0},
    ),
    Step("POST /inventory/update", '{"product_id": 3, "warehouse_id": 2, "quantity": 60, "reserved_quantity": 5}', 409),
]
RESERVATIONS = [
    Step(
        "POST /reservations",
        '{"order_id": 4801, "product_id": 1, "warehouse_id": 1, "quantity": 2, "expires_at": "{soon}"}',
        201,
        ORDER_HOLD_FIELDS,
        {"hold": "reservation_id"},
        {"is_active": True, "is_confirmed": False, "order_id": 4801, "product_id": 1, "quantity": 2},
    ),
    Step("GET /reservations/{hold}", fields=ORDER_HOLD_FIELDS, says={"is_active": True}),
    Step("POST /reservations/{hold}/deactivate", fields=ORDER_HOLD_FIELDS, says={"is_active": False}),
    Step("POST /reservations/cleanup", fields={"expired"}),
    Step("GET /reservations/999", status=404, says={"code": "RESERVATION_NOT_FOUND"}),
]
REST = [
    Step("GET /products", fields={"id", "sku", "name", "description", "price"}),
    Step("GET /products?page=2&limit=1", fields={"id"}),
    Step("GET /products/1", fields={"id", "sku", "name", "description", "price"}, says={"id": 1, "price": 19.99}),
    Step("GET /products/77", status=404, says={"code": "PRODUCT_NOT_FOUND"}),
    Step("GET /config/warehouse", fields={"mode"}),
    Step("PUT /config/warehouse", '{"mode": "queued"}', says={"mode": "queued"}),
    Step("PUT /config/warehouse", '{"mode": "auto"}', says={"mode": "auto"}),
    Step("PUT /config/warehouse", '{"mode": "grpc"}', says={"mode": "grpc"}),
    Step("GET /warehouse/health", fields={"latency_seconds", "breaker"}),
    Step("GET /dead-letters"),
    Step("POST /dead-letters/1-reserve/retry", status=404, says={"code": "NOT_FOUND"}),
    Step("POST /auth/token", '{"username": "customer", "password": "customer"}', fields={"access_token"}),
]
REFUSED = [
    *(
        Step("POST /orders", order(item(unit_price=price)), 400)
        for price in (
            *('"1_9.99"', '" 19.99 "', '"-0.00"', '"1e2"', '"\N{FULLWIDTH DIGIT ONE}9.99"', '"19.999"', '"+19.99"'),
            *("-0.00", "19.999", "1e300", "true", '"NaN"', "[19.99]", '""', "-19.99", '"19,99"'),
        )
    ),
    *(
        Step("POST /orders", order(item(quantity=quantity)), 400)
        for quantity in ("0", "-1", "1000001", "1.5", '"1"', "true", "null", "9" * 30, "1e400")
    ),
    *(
        Step("POST /orders", order(item(product_id=product_id)), 400)
        for product_id in ("0", "-1", "9223372036854775808", '"1"', "1.5", "9" * 4000)
    ),
    Step("POST /orders", order(*[item()] * 101), 400),
    Step("POST /orders", order('{"product_id": 1, "warehouse_id": 1, "quantity": 1, "colour": "red"}'), 400),
    Step("POST /orders", "{", 400),
    Step("POST /orders", '{"user_id": "' + "x" * 1024 * 1024 + '"}', 413),
    *(
        Step(f"GET /orders?{query}", status=400)
        for query in (
            *("start_date=2026-02-30", "end_date=0000-01-01", "start_date=2026-11-20%2000:00:00Z", "end_date=now"),
            *("page=0", "page=1_0", "page=%2B1", "page=01", "limit=101", "limit=1e1", "page=%D9%A1", "status=lost"),
            *("user_id=%20", "end_date=10000-01-01", "start_date=-001-01-01", "colour=red", "page=1&page=2"),
            f"page={'9' * 4000}",
        )
    ),
    *(Step(f"GET /orders/{number}", status=400) for number in ("0", "-1", "01", "9223372036854775808", "%C2%B2")),
    *(
        Step(
            "POST /inventory/reserve",
            f'{{"order_id": 1, "items": [{item()}], "reserve_until": {until}}}',
            400,
        )
        for until in (
            *(
                '"2026-01-01"',
                '"9999-12-31T23:59:59Z"',
                '"2020-01-01T00:00:00Z"',
                '"0000-01-01T00:00:00Z"',
                "1795000000",
            ),
            *('"2026-11-20T12:00:00"', '"2026-11-20T25:00:00Z"', '"9999-12-31T23:59:59-23:59"', "null"),
        )
    ),
]


@pytest.fixture(scope="module")
def base_url(make_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    processes = Processes(tmp_path_factory.mktemp("processes"))
    target = processes.warehouse(make_database("warehouse"))[1]
    asyncio.run(load_demo(target, ""))
    settings = {"ORDERS_REQUESTS_PER_SECOND_MAX": "100000"}
    yield processes.order_gateway(make_database("orders"), target, settings=settings)[1]
    processes.stop_all()


def curl(base_url: str, method: str, path: str, body: str | None) -> tuple[int, Any]:
    """What the command line gets."""
    command = ["curl", "-s", "-S", "--globoff", "-X", method, f"{base_url}{path}", "-w", "\n%{http_code}"]
    command += ["-H", f"X-API-Key: {DEVELOPMENT_API_KEY}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", "@-"]
    done = subprocess.run(command, input=(body or "").encode(), capture_output=True, timeout=60, check=True)
    text, _, status = done.stdout.decode().rpartition("\n")
    return int(status), json.loads(text)


def found(data: Any, path: str) -> Any:
    """What is at `a.0.b`."""
    for name in path.split("."):
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data


def filled(text: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        text = text.replace("{" + name + "}", word)
    return text


def check(step: Step, answer: Any) -> None:
    """The envelope, and what the step says of the answer."""
    assert answer["success"] is (step.status < 400)
    if step.status >= 400:
        assert set(answer["error"]) == ERROR_FIELDS
        if step.status == 400:
            assert answer["error"]["code"] == "INVALID_ARGUMENT"
            assert all(set(item) == {"field", "message"} for item in answer["error"]["details"])
            assert answer["error"]["details"]
    data = answer["data"] if step.status < 400 else answer["error"]
    is_list = isinstance(data, list)
    if "meta" in answer:
        assert set(answer["meta"]) == META_FIELDS
        assert all(isinstance(value, int) for value in answer["meta"].values())
    assert "meta" in answer or not is_list or step.line.endswith("/reservations")
    if is_list and step.fields:
        assert data
    for one in data if is_list else [data]:
        assert step.fields <= set(one)
        check_values(one)
    for path, value in step.says.items():
        assert found(data, path) == value


def check_values(one: Any) -> None:
    """Times are RFC 3339 in UTC, amounts are numbers, ids that are numbers are numbers."""
    for name, value in one.items():
        if name.endswith("_at") or name in ("payment_deadline", "reserved_until"):
            assert value is None or INSTANT.fullmatch(value), (name, value)
        if name in ("total_amount", "unit_price", "total_price", "price"):
            assert value is None or isinstance(value, int | float)
    for item in one.get("items", ()):
        assert set(item) >= (ITEM_FIELDS if "total_amount" in one else LINE_FIELDS & set(item))
        check_values(item)
    for hold in one.get("reservations", ()):
        assert set(hold) >= ORDER_HOLD_FIELDS
        check_values(hold)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(ORDERS, id="orders"),
        pytest.param(INVENTORY, id="inventory"),
        pytest.param(RESERVATIONS, id="reservations"),
        pytest.param(REST, id="the rest"),
        pytest.param(REFUSED, id="refused"),
    ],
)
def test_the_contract_line_by_line(base_url: str, steps: list[Step]) -> None:
    words = {"soon": (datetime.now(UTC) + timedelta(minutes=10)).isoformat()}
    for step in steps:
        method, path = filled(step.line, words).split(" ", 1)
        body = None if step.body is None else filled(step.body, words)
        status, answer = curl(base_url, method, path, body)
        assert status == step.status, (step, answer)
        try:
            check(step, answer)
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"{step.line} {(body or '')[:300]}: {answer}") from error
        words |= {name: str(found(answer["data"], place)) for name, place in step.keep.items()}


def test_a_refused_order_names_each_line(base_url: str) -> None:
    for product_id in (1, 2, 3):
        curl(base_url, "POST", "/inventory/update", f'{{"product_id": {product_id}, "warehouse_id": 2, "quantity": 5}}')
    lines = [f'{{"product_id": {number}, "warehouse_id": 2, "quantity": 100000}}' for number in (1, 2, 3)]
    status, answer = curl(base_url, "POST", "/orders", order(*lines))
    assert (status, answer["error"]["code"]) == (409, "INSUFFICIENT_STOCK")
    assert [(item["product_id"], item["requested"], item["available"]) for item in answer["error"]["details"]] == [
        (number, 100000, 5) for number in (1, 2, 3)
    ]


def test_every_line_of_the_contract_is_served_or_known_to_be_missing(base_url: str) -> None:
    _, document = curl(base_url, "GET", "/openapi.json", None)
    served = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert served >= CONTRACT
    assert not served & LATER
    walked = {re.sub(r"\?.*", "", step.line) for steps in (ORDERS, INVENTORY, RESERVATIONS, REST) for step in steps}
    kinds = {re.sub(r"\{\w+\}|(?<=/)\d[\w-]*(?=/|$)", "{}", line) for line in walked}
    streams = {"GET /orders/{id}/events"}
    assert {re.sub(r"\{\w+\}", "{}", line) for line in CONTRACT - streams} <= kinds
