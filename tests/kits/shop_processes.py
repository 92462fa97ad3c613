"""Both services as real processes, and a customer's hands."""

import asyncio
import sys
import time
from datetime import datetime
from typing import Any

import aiohttp

from stockwarden_client import ClientSettings, WarehouseClient
from tests.kits.processes import DEVELOPMENT_API_KEY, ROOT, Processes, clean_environment

PATIENCE_SECONDS = 20
QUICK = {
    "ORDERS_RELAY__POLL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_INITIAL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_MAX_SECONDS": "0.5",
    "ORDERS_RESERVE_DEADLINE_SECONDS": "1",
    "ORDERS_STEP_DEADLINE_SECONDS": "1",
    "ORDERS_LEASE_MARGIN_SECONDS": "0.5",
    "ORDERS_WAREHOUSE__ATTEMPT_TIMEOUT_SECONDS": "0.5",
}


def order(quantity: int = 2, product_id: int = 1, warehouse_id: int | None = 1) -> dict[str, Any]:
    item = {"product_id": product_id, "warehouse_id": warehouse_id, "quantity": quantity}
    return {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [item]}


class Shop:
    """Both services, and a customer's hands."""

    def __init__(self, processes: Processes, warehouse_url: str, orders_url: str) -> None:
        self.processes = processes
        self.warehouse_url = warehouse_url
        self.orders_url = orders_url
        self.warehouse_process, self.target = processes.warehouse(warehouse_url)
        self.gateway_process, self.base_url = self.start_gateway()
        self.warehouse = WarehouseClient(ClientSettings(target=self.target))
        self.session = aiohttp.ClientSession(headers={"X-API-Key": DEVELOPMENT_API_KEY})

    def start_gateway(self, **settings: str) -> Any:
        return self.processes.order_gateway(self.orders_url, self.target, settings={**QUICK, **settings})

    def restart_gateway(self, **settings: str) -> None:
        self.gateway_process.stop()
        self.gateway_process, self.base_url = self.start_gateway(**settings)

    def start_warehouse_again(self) -> None:
        port = int(self.target.rpartition(":")[2])
        self.warehouse_process, _ = self.processes.warehouse(self.warehouse_url, port=port)

    async def close(self) -> None:
        await self.session.close()
        await self.warehouse.close()

    async def call(self, method: str, path: str, body: object = None, *, status: int) -> Any:
        async with self.session.request(method, f"{self.base_url}{path}", json=body) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer["data"] if status < 400 else answer["error"]

    async def create_order(self, body: dict[str, Any] | None = None, *, status: int = 201) -> Any:
        return await self.call("POST", "/orders", body or order(), status=status)

    async def levels(self, product_id: int = 1, warehouse_id: int = 1) -> tuple[int, int]:
        level = await self.warehouse.get_inventory(product_id, warehouse_id)
        return level.on_hand, level.reserved

    async def audit(self) -> None:
        """Nothing is wrong in the warehouse."""
        environment = {"WAREHOUSE_DATABASE_URL": self.warehouse_url}
        await run_module("warehouse", "audit", environment)


async def run_module(module: str, command: str, settings: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        command,
        cwd=ROOT,
        env=clean_environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def until_instant(instant: str, offset_seconds: float) -> None:
    """Wait for a time of the contract (RFC 3339), plus or minus something."""
    await asyncio.sleep(datetime.fromisoformat(instant).timestamp() + offset_seconds - time.time())
