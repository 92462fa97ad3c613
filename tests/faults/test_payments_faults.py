"""Money is conserved: whatever happens between the shop and its payment provider, and whoever dies meanwhile.

PAYMENT_CHAOS_SEED sets the faults, PAYMENT_CHAOS_ORDERS how many orders there are.
"""

import asyncio
import os
import subprocess
import sys
import time
from decimal import Decimal
from random import Random
from typing import Any, Self

import aiohttp
import pytest

from development.free_ports import free_port
from tests.kits.payment_kit import ReferenceProvider
from tests.kits.processes import (
    DEVELOPMENT_API_KEY,
    ROOT,
    Processes,
    clean_environment,
)
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
SEED = int(os.environ.get("PAYMENT_CHAOS_SEED", "20261125"))
ORDERS = int(os.environ.get("PAYMENT_CHAOS_ORDERS", "60"))
CUSTOMERS = 12
PATIENCE_SECONDS = 60
ANSWER_TIMEOUT_SECONDS = 4
KILLS = 3
WAITING = frozenset({"charging", "refunding"})
SETTINGS = {
    "ORDERS_LOG_LEVEL": "WARNING",
    "ORDERS_RELAY__POLL_SECONDS": "0.1",
    "ORDERS_RELAY__LEASE_SECONDS": "3",
    "ORDERS_RELAY__RETRY_WAIT_INITIAL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_MAX_SECONDS": "1",
    "ORDERS_CHARGE_TIMEOUT_SECONDS": "1.5",
    "ORDERS_LEASE_MARGIN_SECONDS": "0.5",
    "ORDERS_PAYMENTS__TRIES": "2",
    "ORDERS_PAYMENTS__HTTP__TIMEOUT_SECONDS": "0.7",
    "ORDERS_PAYMENTS__HTTP__SILENCE_PAUSE_SECONDS": "0.3",
    # So that some payments are given up, and undone.
    "ORDERS_PAYMENT_WINDOW_SECONDS": "4",
    "ORDERS_HOLD_GRACE_SECONDS": "2",
}


class Shop:
    """The base URL of a gateway, and customers who don't mind whether they are answered."""

    def __init__(self, base_url: str, chance: Random) -> None:
        self._base_url = base_url
        self._chance = chance
        self.orders: list[int] = []

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_SECONDS)
        headers = {"X-API-Key": DEVELOPMENT_API_KEY}
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """What came back; None if nothing did, or no success."""
        try:
            async with self._session.request(method, f"{self._base_url}{path}", json=body) as response:
                return (await response.json()).get("data")
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def buy(self) -> None:
        item = {"product_id": self._chance.randint(1, 3), "quantity": self._chance.randint(1, 2)}
        order = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [item]}
        placed = await self.ask("POST", "/orders", order)
        if placed is None:
            return
        path = f"/orders/{placed['id']}"
        self.orders.append(placed["id"])
        reference = "simulate-decline" if self._chance.random() < 0.1 else "tok_1"
        paying = self.ask("POST", f"{path}/payment", {"payment_reference": reference})
        if self._chance.random() < 0.3:
            await asyncio.gather(paying, self.ask("POST", f"{path}/cancel", {}))
        else:
            await paying
        if self._chance.random() < 0.3:
            await self.ask("POST", f"{path}/cancel", {})

    async def all_ended(self) -> list[dict[str, Any]]:
        """The orders, when no payment is under way any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found: list[dict[str, Any]] = []
            for page in range(1, 1000):
                orders = await self.ask("GET", f"/orders?limit=100&page={page}")
                found += orders or []
                if not orders or len(orders) < 100:
                    break
            waiting = [order for order in found if order["payment_status"] in WAITING or order["status"] == "pending"]
            if len(found) >= len(self.orders) and not waiting:
                return found
            assert time.monotonic() < deadline, f"they never ended: {waiting or found}"
            await asyncio.sleep(0.2)


async def kill_now_and_then(processes: tuple[Any, ...], chance: Random, over: asyncio.Event) -> None:
    for kill in range(KILLS):
        await asyncio.sleep(chance.uniform(0.3, 1.0))
        victim = processes[kill % len(processes)]
        victim.kill()
        await asyncio.sleep(chance.uniform(0, 0.6))
        await asyncio.to_thread(victim.start)
    over.set()


async def test_money_is_conserved(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> None:
    chance = Random(SEED)
    _warehouse, target = processes.warehouse(warehouse_database_url)
    await load_demo(target, "")
    port = free_port()
    base_url = f"http://127.0.0.1:{port}/api/v1"
    provider = ReferenceProvider(processes, f"{base_url}/payments/callbacks", chaos=SEED)
    settings = {**SETTINGS, **provider.settings}
    gateway, _ = processes.order_gateway(orders_database_url, target, port=port, settings=settings)
    over = asyncio.Event()
    async with Shop(base_url, chance) as shop:

        async def customer() -> None:
            while not over.is_set() or len(shop.orders) < ORDERS:
                await shop.buy()

        await asyncio.gather(
            kill_now_and_then((provider.process, gateway), chance, over), *(customer() for _ in range(CUSTOMERS))
        )
        orders = await shop.all_ended()
    paid = [order for order in orders if order["payment_status"] == "charged"]
    assert all(order["status"] == "paid" for order in paid)
    owed = sum((Decimal(str(order["total_amount"])) for order in paid), Decimal(0))
    assert provider.balance().get("USD", Decimal(0)) == owed
    assert set(provider.moves_per_key()) == {1}
    states = provider.states()
    for order in orders:
        if order["payment_status"] == "charged":
            assert states[order["id"]] == "captured"
        else:
            assert states.get(order["id"], "voided") in ("voided", "refunded", "declined")
    assert len(paid) > ORDERS / 10
    assert "refunded" in states.values()
    await audits_are_clean(warehouse_database_url, orders_database_url, target)


async def audits_are_clean(warehouse_url: str, orders_url: str, target: str) -> None:
    for module, settings in (
        ("warehouse", {"WAREHOUSE_DATABASE_URL": warehouse_url}),
        (
            "order_gateway",
            {
                "ORDERS_DATABASE_URL": orders_url,
                "ORDERS_WAREHOUSE_TARGET": target,
                "ORDERS_PROFILE": "development",
            },
        ),
    ):
        command = [sys.executable, "-m", module, "audit"]
        environment = clean_environment(settings)
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
