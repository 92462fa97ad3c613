"""HEAD wherever there is a GET, and a document that says of server-sent events what a validator understands."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = pytest.mark.sql
KEY = {"X-API-Key": DEVELOPMENT_API_KEY}
ORDER = {
    "user_id": 7,
    "shipping_address": "1 Main Street",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 2}],
}
CHANGES_EACH_TIME = frozenset(
    {"Date", "X-Request-ID", "X-Correlation-ID", "Content-Length", "Transfer-Encoding", "Etag"}
)
OUTSIDE_THE_DOCUMENT = ("/metrics", "/swagger", "/swagger/", "/swagger/start.js", "/api/v1/openapi.json")


@dataclass
class Shop:
    session: aiohttp.ClientSession
    root: str
    document: dict[str, Any]
    order: dict[str, Any]

    async def headers(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        async with self.session.request(method, self.root + path, allow_redirects=False) as response:
            body = await response.content.read(1) if "event-stream" in response.content_type else await response.read()
            return response.status, dict(response.headers), body


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Shop]:
    _, target = await asyncio.to_thread(processes.warehouse, warehouse_database_url)
    await load_demo(target, "")
    _, base_url = await asyncio.to_thread(processes.order_gateway, orders_database_url, target)
    async with aiohttp.ClientSession(headers=KEY) as session:
        async with session.get(f"{base_url}/openapi.json") as response:
            document = await response.json()
        async with session.post(f"{base_url}/orders", json=ORDER) as response:
            order = (await response.json())["data"]
        yield Shop(session, base_url.removesuffix("/api/v1"), document, order)


def filled_in(path: str, order: dict[str, Any]) -> str:
    held = order["reservations"][0]["id"] if "/reservations/" in path else order["id"]
    return path.replace("{id}", str(held)).replace("{product_id}", "1").replace("{warehouse_id}", "1")


async def test_head_gives_the_headers_of_get_everywhere(shop: Shop) -> None:
    paths = [path for path, item in shop.document["paths"].items() if "get" in item]
    assert len(paths) >= 12
    async with asyncio.timeout(60):
        for path in (*(filled_in(path, shop.order) for path in paths), *OUTSIDE_THE_DOCUMENT):
            status, headers, _ = await shop.headers("GET", path)
            head_status, head_headers, body = await shop.headers("HEAD", path)
            assert (head_status, body) == (status, b""), path
            assert head_headers.keys() - CHANGES_EACH_TIME == headers.keys() - CHANGES_EACH_TIME, path
            assert head_headers.get("Content-Type") == headers.get("Content-Type"), path
        assert (await shop.headers("HEAD", "/api/v1/orders/999999"))[0] == 404
        status, headers, _ = await shop.headers("HEAD", f"/api/v1/orders/{shop.order['id']}/payment")
        assert (status, headers["Allow"]) == (405, "POST")


async def test_the_events_of_an_order_are_described_as_those_who_check_them_read_them(shop: Shop) -> None:
    operation = shop.document["paths"]["/api/v1/orders/{id}/events"]["get"]
    [(media_type, content)] = operation["responses"]["200"]["content"].items()
    assert media_type == "text/event-stream"
    described = content["schema"]["properties"]
    assert "Last-Event-ID" in {parameter["name"] for parameter in operation["parameters"]}
    reference = described["data"]["contentSchema"]["$ref"]
    fields = shop.document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    async with shop.session.get(f"{shop.root}/api/v1/orders/{shop.order['id']}/events") as response:
        block = (await response.content.readuntil(b"\n\n")).decode().strip()
    sent = dict(line.split(": ", 1) for line in block.splitlines())
    assert sent.keys() == described.keys()
    assert re.fullmatch(described["id"]["pattern"], sent["id"])
    assert json.loads(sent["data"]).keys() == fields.keys()
