"""What a request was is gone when it has been answered.

Where a request leads to itself, by what was put into it or by an exception that somebody keeps, it stays, with all that
it holds, until Python's garbage collector looks for it; under load that was a tenth of the gateway's time.
"""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from tests.kits.orders_api import KEY, ORDER, serving_orders

pytestmark = pytest.mark.sql
TIMES = 20
UNKNOWN_FIELD = {**ORDER, "colour": "red"}
UNKNOWN_PRODUCT = {**ORDER, "items": [{"product_id": 2, "warehouse_id": 1, "quantity": 1}]}
ANY_WAREHOUSE = {**ORDER, "items": [{"product_id": 1, "quantity": 1}]}
WHO = {"key": KEY, "idempotent": {**KEY, "Idempotency-Key": "once"}, "stranger": {}}
REQUESTS: dict[str, tuple[str, str, Any, int]] = {
    "an order": ("POST", "/orders", ORDER, 201),
    "an order of any warehouse": ("POST", "/orders", ANY_WAREHOUSE, 201),
    "a malformed order": ("POST", "/orders", UNKNOWN_FIELD, 400),
    "an order that is no JSON": ("POST", "/orders", b"{", 400),
    "an order of what there is not": ("POST", "/orders", UNKNOWN_PRODUCT, 404),
    "a list": ("GET", "/orders", None, 200),
    "a look at no order": ("GET", "/orders/4711", None, 404),
    "nothing there": ("GET", "/nowhere", None, 404),
    "a health check": ("GET", "/health", None, 200),
}


@pytest.fixture
def _collected_by_hand() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def requests_left() -> int:
    return sum(isinstance(thing, web.Request) for thing in gc.get_objects())


@pytest.mark.usefixtures("_collected_by_hand")
@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("headers", WHO.values(), ids=WHO)
async def test_a_request_is_gone_once_it_is_answered(
    kind: str, headers: dict[str, str], orders_database_url: str
) -> None:
    method, path, body, expected = REQUESTS[kind]
    status = expected if headers or path == "/health" else 401
    before = requests_left()
    async with serving_orders(orders_database_url) as api:
        for _ in range(TIMES):
            await api.call(method, f"/api/v1{path}", body, status=status, headers=headers)
        assert requests_left() - before <= 1
