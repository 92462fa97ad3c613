"""Gateways far from their warehouse, with a dead connection, with a key that is not enough, with a wrong clock."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stockwarden_client import ClientSettings, WarehouseClient
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from tests.kits.secrets_used import hashed, key_of
from tests.kits.shop_processes import order
from tests.kits.tcp_proxy import proxied
from tests.kits.waiting import until
from tests.kits.warehouse_kit import scalar, sql
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
ONE_WAY_SECONDS = 0.3
ORDERS = int(os.environ.get("DISTANCE_ORDERS", "40"))
TOGETHER = 10
CREATED_SHARE_MIN = 0.99
RECOVERY_SECONDS_MAX = 10
CLOCK_OFF_SECONDS = 360
ADMIN_KEY = key_of("admin")


class Gateway:
    """An order gateway, and a customer's hands."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.session = aiohttp.ClientSession(headers={"X-API-Key": DEVELOPMENT_API_KEY})

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with self.session.request(method, f"{self.base_url}{path}", json=body) as response:
            answer = await response.json()
            return response.status, answer["data"] if response.status < 400 else answer["error"]

    async def create_order(self, quantity: int = 1, warehouse_id: int | None = 1) -> tuple[int, Any]:
        return await self.call("POST", "/orders", order(quantity, warehouse_id=warehouse_id))


class Place:
    """Two databases, a warehouse, and gateways as they are wanted."""

    def __init__(self, processes: Processes, warehouse_url: str, orders_url: str) -> None:
        self.processes, self.warehouse_url, self.orders_url = processes, warehouse_url, orders_url
        self.target = ""
        self._gateways: list[Gateway] = []

    async def start_warehouse(self, **settings: str) -> None:
        start = self.processes.warehouse
        _process, self.target = await asyncio.to_thread(lambda: start(self.warehouse_url, settings=settings))
        await load_demo(self.target, ADMIN_KEY if settings else "")
        async with WarehouseClient(ClientSettings(target=self.target, api_key=ADMIN_KEY)) as client:
            await client.add_stock(1, 1, ORDERS, request_id="more-of-1")

    async def gateway(self, target: str = "", **settings: str) -> Gateway:
        start, to = self.processes.order_gateway, target or self.target
        _process, base_url = await asyncio.to_thread(lambda: start(self.orders_url, to, settings=settings))
        self._gateways.append(Gateway(base_url))
        return self._gateways[-1]

    async def close(self) -> None:
        for gateway in self._gateways:
            await gateway.session.close()


@pytest.fixture
async def place(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Place]:
    place = Place(processes, warehouse_database_url, orders_database_url)
    yield place
    await place.close()


async def test_a_slow_warehouse_is_not_a_dead_one(place: Place) -> None:
    """600 ms from question to answer: more than the look at prices waits, less than an order does.

    DISTANCE_ORDERS=500 measures it.
    """
    await place.start_warehouse()
    async with proxied(place.target, ONE_WAY_SECONDS) as proxy:
        gateway = await place.gateway(proxy.target)
        statuses: Counter[int] = Counter()
        for _ in range(ORDERS // TOGETHER):
            answers = await asyncio.gather(
                *(gateway.create_order(1, 1 if one % 2 else None) for one in range(TOGETHER))
            )
            statuses.update(status for status, _ in answers)
        assert statuses[201] >= CREATED_SHARE_MIN * ORDERS, statuses
        assert (await gateway.call("GET", "/warehouse/health"))[1]["breaker"] == "closed"
        assert (await gateway.call("GET", "/ready"))[0] == 200
        assert proxy.accepted <= 2


async def test_a_price_that_was_changed_is_seen_at_a_distance(place: Place) -> None:
    """The look at prices is always late there: what it brings serves the next order."""
    await place.start_warehouse()
    async with proxied(place.target, ONE_WAY_SECONDS) as proxy:
        gateway = await place.gateway(proxy.target)
        _status, before = await gateway.create_order()
        sql(place.warehouse_url, "UPDATE products SET list_price = list_price + 1 WHERE product_id = 1")

        async def is_seen() -> bool:
            _status, after = await gateway.create_order()
            return bool(after["items"][0]["unit_price"] == before["items"][0]["unit_price"] + 1)

        await until(is_seen)


async def test_a_dead_connection_is_replaced(place: Place) -> None:
    """What is sent is swallowed, and new connections pass: orders go on in less than ten seconds."""
    await place.start_warehouse()
    async with proxied(place.target) as proxy:
        gateway = await place.gateway(proxy.target)
        assert (await gateway.create_order())[0] == 201
        assert proxy.swallow() == 1
        died = time.monotonic()
        refused = 0
        while (await gateway.create_order())[0] != 201:
            refused += 1
            assert time.monotonic() - died < RECOVERY_SECONDS_MAX
            await asyncio.sleep(0.1)
        assert refused
        assert [(await gateway.create_order())[0] for _ in range(5)] == [201] * 5


def keys() -> str:
    roles = {"looker": "reader", "shop": "order", "boss": "admin"}
    return json.dumps([{"name": name, "role": role, "sha256": hashed(key_of(role))} for name, role in roles.items()])


async def test_the_role_order_is_enough_for_orders(place: Place) -> None:
    """From stock to paid, and back; what it is not enough for stops nobody's order."""
    await place.start_warehouse(WAREHOUSE_API_KEYS=keys())
    gateway = await place.gateway(ORDERS_WAREHOUSE_API_KEY=key_of("order"))
    placed = [(await gateway.create_order(2, None))[1]["id"] for _ in range(2)]
    for number in placed:
        assert (await gateway.call("POST", f"/orders/{number}/payment", {}))[0] == 200
    assert (await gateway.call("POST", f"/orders/{placed[0]}/cancel", {}))[1]["status"] == "cancelled"
    count = {"product_id": 1, "warehouse_id": 1, "quantity": 500}
    for _ in range(7):
        status, error = await gateway.call("POST", "/inventory/update", count)
        assert (status, error["code"]) == (503, "WAREHOUSE_DENIED")
        assert "its key 'shop' has the role order, and this needs admin" in error["message"]
        assert (await gateway.call("POST", "/reservations/cleanup", {}))[1]["code"] == "WAREHOUSE_DENIED"
    assert (await gateway.create_order())[0] == 201
    assert (await gateway.call("GET", "/warehouse/health"))[1]["breaker"] == "closed"
    assert (await gateway.call("GET", "/ready"))[0] == 200

    async def is_given_back() -> bool:
        return bool((await gateway.call("GET", "/inventory/1/1"))[1]["quantity"] == 98 + ORDERS)

    await until(is_given_back)


@pytest.mark.parametrize(
    ("key", "words"),
    [("wrong", "does not know this service's key"), (key_of("reader"), "'looker' of this service has the role reader")],
    ids=["wrong", "reader"],
)
async def test_a_key_that_is_not_enough_is_named(place: Place, key: str, words: str) -> None:
    await place.start_warehouse(WAREHOUSE_API_KEYS=keys())
    gateway = await place.gateway(ORDERS_WAREHOUSE_API_KEY=key, ORDERS_GATEWAY="auto")
    status, error = await gateway.call("GET", "/ready")
    assert (status, error["code"]) == (503, "NOT_READY")
    assert words in error["message"]
    assert {check["check"]: check["ok"] for check in error["details"]}["warehouse"]
    log = place.processes.started[-1].log_path

    def is_logged() -> bool:
        return any(words in line and '"error"' in line for line in log.read_text().splitlines())

    async def is_said() -> bool:
        return await asyncio.to_thread(is_logged)

    await until(is_said)
    assert (await gateway.call("GET", "/warehouse/health"))[1]["breaker"] == "closed"


async def test_a_key_that_becomes_good_is_enough_without_a_restart(place: Place) -> None:
    await place.start_warehouse(WAREHOUSE_API_KEYS=keys())
    gateway = await place.gateway(ORDERS_WAREHOUSE_API_KEY=key_of("next"))
    assert (await gateway.create_order())[1]["code"] == "WAREHOUSE_DENIED"
    warehouse, port = place.processes.started[0], int(place.target.rpartition(":")[2])
    await asyncio.to_thread(warehouse.stop)
    more = [
        *json.loads(keys()),
        {"name": "next", "role": "order", "sha256": hashed(key_of("next"))},
    ]
    settings = {"WAREHOUSE_API_KEYS": json.dumps(more)}
    start = place.processes.warehouse
    await asyncio.to_thread(lambda: start(place.warehouse_url, port=port, settings=settings))

    async def is_ready() -> bool:
        return (await gateway.call("GET", "/ready"))[0] == 200

    await until(is_ready)
    assert (await gateway.create_order())[0] == 201


def faked_clock(seconds: int) -> dict[str, str]:
    """Settings for a process whose clock is off by so much."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.parametrize("seconds", [CLOCK_OFF_SECONDS, -CLOCK_OFF_SECONDS])
async def test_a_gateway_whose_clock_is_wrong(place: Place, seconds: int) -> None:
    """Queued orders wait for the warehouse as long as they should, and holds last as long as was asked for."""
    await place.start_warehouse()
    gateway = await place.gateway(**faked_clock(seconds), ORDERS_RELAY__RETRY_WAIT_MAX_SECONDS="0.5")
    assert (await gateway.create_order())[0] == 201
    until_ = scalar(place.warehouse_url, "SELECT UTC_TIMESTAMP() + INTERVAL 60 SECOND").isoformat() + "Z"
    item = {"product_id": 1, "warehouse_id": 1, "quantity": 1}
    wish = {"order_id": "direct-1", "items": [item], "reserve_until": until_}
    status, held = await gateway.call("POST", "/inventory/reserve", wish)
    assert status == 201, held
    assert datetime.fromisoformat(held["reserved_until"]) == datetime.fromisoformat(until_)
    late = scalar(place.warehouse_url, "SELECT UTC_TIMESTAMP() - INTERVAL 1 SECOND").isoformat() + "Z"
    status, error = await gateway.call("POST", "/reservations", {"order_id": "direct-2", **item, "expires_at": late})
    assert (status, error["details"][0]["field"]) == (400, "expires_at")

    warehouse, port = place.processes.started[0], int(place.target.rpartition(":")[2])
    await asyncio.to_thread(warehouse.kill)
    assert (await gateway.call("PUT", "/config/warehouse", {"mode": "queued"}))[0] == 200
    status, queued = await gateway.create_order()
    assert status == 202

    async def was_tried() -> bool:
        return bool(scalar(place.orders_url, "SELECT MAX(attempts) FROM intents WHERE last_error IS NOT NULL") or 0)

    await until(was_tried)
    path = f"/orders/{queued['id']}"
    assert (await gateway.call("GET", path))[1]["status"] == "pending_reservation"
    start = place.processes.warehouse
    await asyncio.to_thread(lambda: start(place.warehouse_url, port=port))
    shown = (await gateway.call("GET", f"{path}?wait=10"))[1]
    assert shown["status"] == "pending"
    window = datetime.fromisoformat(shown["payment_deadline"]) - datetime.fromisoformat(shown["created_at"])
    assert 890 <= window.total_seconds() <= 960
    assert shown["reservations"][0]["is_active"]
