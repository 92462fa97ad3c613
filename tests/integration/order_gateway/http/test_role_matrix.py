"""Every operation of the API, asked for by everybody: each lets in those whom it should, and nobody else."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
import pytest

from order_gateway.http.guards.auth import Access
from tests.kits.processes import Processes
from tests.kits.secrets_used import hashed, key_of, secret
from tests.kits.shop_processes import order
from warehouse.demo import load_demo

pytestmark = [pytest.mark.sql, pytest.mark.e2e]
JWT_SECRET = secret(key_of("jwt") * 2)
LADDER = (Access.OPEN, Access.CALLER, Access.SERVICE, Access.ADMIN)
NEEDED: Mapping[Access, tuple[str, ...]] = {
    Access.OPEN: (
        *("GET /health", "GET /api/v1/health", "GET /ready", "GET /api/v1/ready"),
        *("POST /api/v1/auth/token", "POST /api/v1/payments/callbacks"),
    ),
    Access.CALLER: (
        *("GET /api/v1/orders", "POST /api/v1/orders", "GET /api/v1/orders/{id}", "GET /api/v1/orders/{id}/events"),
        *("GET /api/v1/orders/{id}/reservations", "POST /api/v1/orders/{id}/payment", "POST /api/v1/orders/{id}/pay"),
        *("POST /api/v1/orders/{id}/cancel", "PATCH /api/v1/orders/{id}/status", "GET /api/v1/reservations/{id}"),
        *("POST /api/v1/inventory/get", "POST /api/v1/inventory/batch", "POST /api/v1/inventory/check-availability"),
        *("GET /api/v1/inventory/{product_id}/{warehouse_id}", "GET /api/v1/products", "GET /api/v1/products/{id}"),
        "GET /api/v1/warehouse/health",
    ),
    Access.SERVICE: (
        *("POST /api/v1/reservations", "POST /api/v1/reservations/{id}/deactivate", "POST /api/v1/inventory/reserve"),
        *("POST /api/v1/inventory/confirm", "POST /api/v1/inventory/commit", "POST /api/v1/inventory/release"),
        *("POST /api/v1/inventory/cancel", "GET /api/v1/refunds", "POST /api/v1/refunds/{id}/confirm"),
    ),
    Access.ADMIN: (
        *("POST /api/v1/reservations/cleanup", "POST /api/v1/inventory/update", "GET /api/v1/orders/{id}/why"),
        *("GET /api/v1/config/warehouse", "PUT /api/v1/config/warehouse", "GET /api/v1/dead-letters"),
        "POST /api/v1/dead-letters/{id}/retry",
    ),
}
SIGNED = "POST /api/v1/payments/callbacks"
"""Open to everybody, and refused without the provider's signature."""
OUTSIDE_THE_DOCUMENT = ("/metrics", "/swagger/", "/swagger/start.js", "/api/v1/openapi.json")


def shows(key: str, role: str = "") -> dict[str, str]:
    """The headers of a key, and of a person with a role if it is given."""
    headers = {"X-API-Key": key_of(key)}
    if role:
        claims = {"sub": "7", "role": role, "iss": "order-service", "aud": "order-service", "exp": time.time() + 86_400}
        headers["Authorization"] = f"Bearer {secret(jwt.encode(claims, JWT_SECRET, 'HS256'))}"
    return headers


CALLERS: Mapping[str, tuple[Access, dict[str, str]]] = {
    "a stranger": (Access.OPEN, {}),
    "a wrong key": (Access.OPEN, shows("wrong")),
    "a token without a key": (Access.OPEN, {"Authorization": shows("page", "admin")["Authorization"]}),
    "a browser's key": (Access.OPEN, shows("page")),
    "a customer": (Access.CALLER, shows("page", "customer")),
    "a customer behind a service": (Access.CALLER, shows("shop", "customer")),
    "a customer behind an admin's key": (Access.CALLER, shows("office", "customer")),
    "a service": (Access.SERVICE, shows("shop")),
    "an admin's key": (Access.ADMIN, shows("office")),
    "an admin": (Access.ADMIN, shows("page", "admin")),
    "an admin behind a service": (Access.ADMIN, shows("shop", "admin")),
}
"""What each may do at most."""


@dataclass
class Shop:
    """The service, and an order of the customers with its hold."""

    session: aiohttp.ClientSession
    root: str
    order_id: int
    hold: int

    async def status(self, method: str, path: str, headers: Mapping[str, str], body: object = None) -> int:
        sent: dict[str, Any] = {} if method in ("GET", "HEAD") else {"json": body or {}}
        async with self.session.request(method, self.root + path, headers=headers, **sent) as response:
            return response.status

    def filled_in(self, path: str) -> str:
        number = self.hold if "/reservations/" in path else self.order_id
        return path.replace("{id}", str(number)).replace("{product_id}", "1").replace("{warehouse_id}", "1")


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Shop]:
    _, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    keys = [
        {"name": "shop", "sha256": hashed(key_of("shop"))},
        {"name": "office", "sha256": hashed(key_of("office")), "roles": ["service", "admin"]},
        {"name": "page", "sha256": hashed(key_of("page")), "person_required": True},
    ]
    settings = {
        "ORDERS_API_KEYS": json.dumps(keys),
        "ORDERS_JWT_SECRET": JWT_SECRET,
        "ORDERS_WRONG_KEYS_PER_MINUTE_MAX": "1000",
        "ORDERS_REQUESTS_PER_SECOND_PER_PERSON_MAX": "100000",
        "ORDERS_OPEN_REQUESTS_PER_SECOND_MAX": "100000",
    }
    _, base_url = await asyncio.to_thread(
        lambda: processes.order_gateway(orders_database_url, target, settings=settings)
    )
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base_url}/orders", json=order(), headers=shows("shop")) as response:
            placed = (await response.json())["data"]
        yield Shop(session, base_url.removesuffix("/api/v1"), placed["id"], placed["reservations"][0]["id"])


async def test_each_operation_lets_in_those_whom_it_should(shop: Shop) -> None:
    needed = {operation: access for access, operations in NEEDED.items() for operation in operations}
    async with shop.session.get(f"{shop.root}/api/v1/openapi.json") as response:
        described = (await response.json())["paths"]
    assert needed.keys() == {f"{method.upper()} {path}" for path, item in described.items() for method in item}
    for operation, access in needed.items():
        method, _, template = operation.partition(" ")
        for name, (has, headers) in CALLERS.items():
            for way in (method, *(["HEAD"] if method == "GET" else [])):
                status = await shop.status(way, shop.filled_in(template), headers)
                refused = 401 if has is Access.OPEN else 403
                if operation == SIGNED:
                    assert status in (400, 401), name
                elif LADDER.index(has) < LADDER.index(access):
                    assert status == refused, (way, template, name)
                else:
                    assert status not in (401, 403), (way, template, name)
                    assert status < 500, (way, template, name)


@pytest.mark.parametrize("to", ["shipped", "completed"])
async def test_what_only_services_move_an_order_to(shop: Shop, to: str) -> None:
    path, body = f"/api/v1/orders/{shop.order_id}/status", {"status": to}
    for name, (has, headers) in CALLERS.items():
        status = await shop.status("PATCH", path, headers, body)
        assert status == {Access.OPEN: 401, Access.CALLER: 403}.get(has, 409), name


async def test_what_is_not_in_the_document_is_open_on_purpose(shop: Shop) -> None:
    for path in OUTSIDE_THE_DOCUMENT:
        assert await shop.status("GET", path, {}) == 200, path
