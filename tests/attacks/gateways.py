"""An order service that is attacked with settings of its own, and a client of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from tests.attacks.http import KEY, PREFIX

ORDER = {
    "shipping_address": "Street 1",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 1}],
}


@dataclass
class Gateway:
    """A running order service, and a client of it."""

    port: int
    session: aiohttp.ClientSession

    async def status(self, path: str, headers: dict[str, str] = KEY) -> tuple[int, str | None]:
        """The status and Retry-After of a GET."""
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as response:
            await response.read()
            return response.status, response.headers.get("Retry-After")

    async def orders(self, headers: dict[str, str] = KEY) -> int:
        """The status of a list of orders."""
        return (await self.status(f"{PREFIX}/orders", headers))[0]

    async def create_order(self, user_id: str) -> int:
        """The id of a new order."""
        url = f"http://127.0.0.1:{self.port}{PREFIX}/orders"
        async with self.session.post(url, json={**ORDER, "user_id": user_id}, headers=KEY) as response:
            return int((await response.json())["data"]["id"])

    async def metric(self, sample: str) -> float:
        """A number of /metrics; 0 if it is not there."""
        async with self.session.get(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0)

    async def limited(self, bound: str) -> float:
        """How often a bound has refused or ended something."""
        return await self.metric(f'order_gateway_limited_total{{bound="{bound}"}}')

    async def until(self, is_so: Callable[[float], bool], sample: str) -> float:
        """How long it takes until a number of /metrics is as it should be."""
        started = time.monotonic()
        async with asyncio.timeout(20):
            while not is_so(await self.metric(sample)):  # noqa: ASYNC110 - another process makes it so
                await asyncio.sleep(0.05)
        return time.monotonic() - started


Start = Callable[..., Awaitable[Gateway]]
"""Starts an order service with these settings; `is_queued`: whose orders wait for a warehouse that is away."""
