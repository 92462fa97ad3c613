"""Orders paid through a provider that is a process of its own, and by callers who take the money themselves."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from development.free_ports import free_port
from order_gateway.payments.signing import sign
from stockwarden_client import ClientSettings, WarehouseClient
from tests.kits.payment_kit import CALLBACK_SECRET, ReferenceProvider, violations
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from tests.kits.waiting import PATIENCE_SECONDS, until
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
QUICK = {
    "ORDERS_RELAY__POLL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_INITIAL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_MAX_SECONDS": "0.5",
    "ORDERS_CHARGE_TIMEOUT_SECONDS": "3",
    "ORDERS_LEASE_MARGIN_SECONDS": "0.5",
    "ORDERS_PAYMENTS__HTTP__TIMEOUT_SECONDS": "1",
}
PRICE = 19.99


class Shop:
    """Warehouse and gateway as processes, and a provider if there is one."""

    def __init__(self, processes: Processes, urls: tuple[str, str], target: str) -> None:
        self._processes = processes
        self._orders_url = urls[1]
        self._target = target
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}/api/v1"
        self.warehouse = WarehouseClient(ClientSettings(target=target))
        self.session = aiohttp.ClientSession(
            headers={"X-API-Key": DEVELOPMENT_API_KEY}, connector=aiohttp.TCPConnector(force_close=True)
        )

    def open(self, settings: Mapping[str, str]) -> None:
        self.gateway, _ = self._processes.order_gateway(
            self._orders_url, self._target, port=self._port, settings={**QUICK, **settings}
        )

    async def call(
        self, method: str, path: str, body: object = None, *, status: int, headers: Mapping[str, str] | None = None
    ) -> Any:
        data = body if isinstance(body, bytes) else None
        sent = {"data": data, "headers": {"Content-Type": "application/json"}} if data is not None else {"json": body}
        sent["headers"] = {**sent.get("headers", {}), **(headers or {})}  # type: ignore[dict-item]
        async with self.session.request(method, f"{self.base_url}{path}", **sent) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer["data"] if status < 400 else answer["error"]

    async def create_order(self) -> int:
        item = {"product_id": 1, "warehouse_id": 1, "quantity": 1}
        body = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [item]}
        order = await self.call("POST", "/orders", body, status=201)
        assert (order["currency"], order["items"][0]["currency"]) == ("USD", "USD")
        return int(order["id"])

    async def pay(self, order_id: int, reference: str = "tok_1", *, status: int = 200, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        body = {"payment_reference": reference}
        return await self.call("POST", f"/orders/{order_id}/payment", body, status=status, headers=headers)

    async def order(self, order_id: int) -> Any:
        return await self.call("GET", f"/orders/{order_id}", status=200)

    async def becomes(self, order_id: int, status: str, payment_status: str) -> None:
        async def is_so() -> bool:
            order = await self.order(order_id)
            return (order["status"], order["payment_status"]) == (status, payment_status)

        await until(is_so)

    async def events(self, order_id: int, seen: asyncio.Queue[str]) -> None:
        """All that happens to an order, until nothing will any more."""
        async with self.session.get(f"{self.base_url}/orders/{order_id}/events") as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    await seen.put(json.loads(line[6:])["event"])

    async def stock_becomes(self, expected: tuple[int, int]) -> None:
        """On hand and reserved: an order is shown as paid just before its stock is sold."""

        async def is_so() -> bool:
            level = await self.warehouse.get_inventory(1, 1)
            return (level.on_hand, level.reserved) == expected

        await until(is_so)

    async def close(self) -> None:
        await self.session.close()
        await self.warehouse.close()


@pytest.fixture
async def shop(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> AsyncIterator[Shop]:
    _process, target = processes.warehouse(warehouse_database_url)
    await load_demo(target, "")
    shop = Shop(processes, (warehouse_database_url, orders_database_url), target)
    yield shop
    await shop.close()


@pytest.fixture
async def provider(shop: Shop, processes: Processes) -> ReferenceProvider:
    provider = ReferenceProvider(processes, f"{shop.base_url}/payments/callbacks")
    shop.open(provider.settings)
    return provider


async def test_paid_cancelled_and_declined(shop: Shop, provider: ReferenceProvider) -> None:
    paid, cancelled, declined = [await shop.create_order() for _ in range(3)]
    assert (await shop.pay(paid))["payment_status"] == "charged"
    await shop.pay(cancelled)
    assert provider.balance() == {"USD": Decimal("39.98")}
    await shop.call("POST", f"/orders/{cancelled}/cancel", {}, status=200)
    await shop.becomes(cancelled, "cancelled", "refunded")
    refused = await shop.pay(declined, "simulate-decline", status=422)
    assert refused["code"] == "PAYMENT_DECLINED"
    await shop.becomes(declined, "cancelled", "declined")
    assert provider.states() == {paid: "captured", cancelled: "refunded", declined: "declined"}
    assert provider.balance() == {"USD": Decimal("19.99")}
    await shop.stock_becomes((99, 0))


async def test_an_outcome_that_comes_later_by_callback(shop: Shop, provider: ReferenceProvider) -> None:
    order = await shop.create_order()
    provider.will(("authorise", "pending"), ("callback", "wrong_signature"), ("callback", "replay"))
    waiting = await shop.pay(order, status=202, key="pay-1")
    assert (waiting["status"], waiting["payment_status"]) == ("pending", "charging")
    await shop.becomes(order, "paid", "charged")
    # The same key now tells how it ended.
    assert (await shop.pay(order, key="pay-1"))["status"] == "paid"

    async def are_heard() -> bool:
        return len(provider.rows("SELECT * FROM heard")) == 3

    await until(are_heard)
    heard = [(status, json.loads(answer)) for status, answer in provider.rows("SELECT status, answer FROM heard")]
    assert [status for status, _ in heard] == [401, 200, 200]
    assert [answer["data"]["is_new"] for _, answer in heard[1:]] == [True, False]
    [(body,)] = provider.rows("SELECT body FROM callbacks")
    assert violations(("components", "schemas", "News"), json.loads(body)) == []
    assert provider.moves_per_key() == [1]


async def test_a_callback_that_comes_before_the_answer_and_one_that_never_comes(
    shop: Shop, provider: ReferenceProvider
) -> None:
    early, silent = await shop.create_order(), await shop.create_order()
    provider.will(("authorise", "early_callback"))
    await shop.pay(early, status=202)
    await shop.becomes(early, "paid", "charged")
    # Nothing is heard; the relay looks by itself.
    provider.will(("authorise", "pending"), *[("callback", "lose_request")] * 500)
    await shop.pay(silent, status=202)
    await shop.becomes(silent, "paid", "charged")
    assert provider.moves_per_key() == [1, 1]
    await shop.stock_becomes((98, 0))


async def test_only_signed_news_of_now_are_taken(shop: Shop, provider: ReferenceProvider) -> None:
    body = json.dumps({"type": "payment.updated", "data": {"order_id": "1", "unknown": True}}).encode()
    now = int(time.time())
    good = {
        "webhook-id": "m-1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(CALLBACK_SECRET, "m-1", now, body),
    }
    old = {**good, "webhook-timestamp": "1", "webhook-signature": sign(CALLBACK_SECRET, "m-1", 1, body)}
    for headers in ({}, old, {**good, "webhook-id": "m-2"}, {**good, "webhook-signature": "v1,AAAA"}):
        refused = await shop.call("POST", "/payments/callbacks", body, status=401, headers=headers)
        assert refused["code"] == "UNAUTHENTICATED"
    malformed = b'{"data": {"order_id": 1}}'
    await shop.call("POST", "/payments/callbacks", malformed, status=400, headers=good)
    for is_new in (True, False):
        taken = await shop.call("POST", "/payments/callbacks", body, status=200, headers=good)
        assert taken == {"is_new": is_new}


async def test_the_provider_dies_while_it_is_asked(shop: Shop, provider: ReferenceProvider) -> None:
    lost, unasked = await shop.create_order(), await shop.create_order()
    provider.will(("capture", "slow"))
    paying = asyncio.create_task(shop.pay(lost, status=503))

    async def is_captured() -> bool:
        return provider.states().get(lost) == "captured"

    await until(is_captured)
    provider.process.kill()
    assert (await paying)["code"] == "PAYMENT_PENDING"
    await shop.pay(unasked, status=503)
    provider.process.start()
    for order in (lost, unasked):
        await shop.becomes(order, "paid", "charged")
    assert provider.moves_per_key() == [1, 1]


async def test_the_gateway_dies_after_the_money_was_taken(shop: Shop, provider: ReferenceProvider) -> None:
    order = await shop.create_order()
    provider.will(("capture", "slow"))
    paying = asyncio.create_task(shop.pay(order))

    async def is_captured() -> bool:
        return provider.states().get(order) == "captured"

    await until(is_captured)
    shop.gateway.kill()
    with pytest.raises(aiohttp.ClientError):
        await paying
    shop.open(provider.settings)
    await shop.becomes(order, "paid", "charged")
    assert provider.moves_per_key() == [1]


async def test_payments_stay_with_their_provider_when_another_is_chosen(
    shop: Shop, provider: ReferenceProvider
) -> None:
    before = await shop.create_order()
    await shop.pay(before)
    shop.gateway.stop()
    shop.open({**provider.settings, "ORDERS_PAYMENTS__PROVIDER": "external"})
    after = await shop.create_order()
    await shop.pay(after, "cash-1")
    for order in (before, after):
        await shop.call("POST", f"/orders/{order}/cancel", {}, status=200)
    await shop.becomes(before, "cancelled", "refunded")
    await shop.becomes(after, "cancelled", "refund_requested")
    assert provider.states() == {before: "refunded"}


async def test_a_caller_who_takes_the_money_gives_it_back_when_asked(shop: Shop) -> None:
    shop.open({"ORDERS_PAYMENTS__PROVIDER": "external"})
    order, kept = await shop.create_order(), await shop.create_order()
    for path, body in (("payment", {}), ("pay", {"payment_method": "cash"})):
        refused = await shop.call("POST", f"/orders/{order}/{path}", body, status=400)
        assert refused["details"][0]["field"] == "payment_reference"
    refused = await shop.call("PATCH", f"/orders/{order}/status", {"status": "paid"}, status=400)
    assert refused["details"][0]["field"] == "payment_reference"
    login = await shop.call("POST", "/auth/token", {"username": "customer", "password": "customer"}, status=200)
    person = {"Authorization": f"Bearer {login['access_token']}"}
    claim = {"payment_reference": "i-paid-believe-me"}
    await shop.call("POST", f"/orders/{order}/payment", claim, status=403, headers=person)
    await shop.call("GET", "/refunds", status=403, headers=person)
    for paid in (order, kept):
        assert (await shop.pay(paid, f"cash-{paid}"))["payment_status"] == "charged"
    assert (await shop.call("POST", f"/refunds/{order}/confirm", {}, status=404))["code"] == "REFUND_NOT_FOUND"
    await shop.call("POST", f"/orders/{order}/cancel", {}, status=200)
    # The stock does not wait for the money.
    await shop.becomes(order, "cancelled", "refund_requested")
    await shop.stock_becomes((99, 0))
    [asked] = await shop.call("GET", "/refunds?status=requested", status=200)
    assert (asked["id"], asked["amount"], asked["currency"]) == (order, PRICE, "USD")
    assert (asked["payment_reference"], asked["reason"]) == (f"cash-{order}", "customer")
    seen: asyncio.Queue[str] = asyncio.Queue()
    following = asyncio.create_task(shop.events(order, seen))
    async with asyncio.timeout(PATIENCE_SECONDS):
        events = [await seen.get()]
        while not {"refund_requested", "returned"} <= set(events):
            events.append(await seen.get())
    for _ in range(2):
        confirmed = await shop.call("POST", f"/refunds/{order}/confirm", {"refund_reference": "r-1"}, status=200)
        assert (confirmed["status"], confirmed["refund_reference"]) == ("confirmed", "r-1")
        assert confirmed["confirmed_by"] == "development"
    assert (await shop.order(order))["payment_status"] == "refunded"
    assert await shop.call("GET", "/refunds?status=requested", status=200) == []
    assert await shop.call("GET", "/refunds?status=confirmed", status=200) == [confirmed]
    # The stream of a cancelled order ends when its money is back.
    await following
    assert (seen.get_nowait(), seen.empty()) == ("refund_confirmed", True)
