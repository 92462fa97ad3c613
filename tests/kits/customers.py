"""Customers of a shop whose processes die: what they do, and what they remember having been told."""

import asyncio
import itertools
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from tests.kits.processes import DEVELOPMENT_API_KEY

ANSWER_TIMEOUT_SECONDS = 4
"""Then a customer counts the answer as lost."""
PATIENCE_SECONDS = 90
"""So long a customer repeats a request under its Idempotency-Key; longer than any outage, claim and lease together."""
PAUSE_SECONDS = 0.15
"""The longest wait between two tries, and between two orders."""
KEY_SHARE = 0.7
DECLINE_SHARE = 0.1
_REPEATED = frozenset({429, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What came back: `data` of a success, the error's code otherwise."""

    status: int
    data: dict[str, Any] = field(default_factory=dict)
    code: str = ""


@dataclass
class Wish:
    """One order that a customer wants, known by its shipping address.

    Attributes:
        order_ids: the orders that the customer was told of.
        was_refused: whether the customer was told that there won't be one.
    """

    address: str
    order_ids: set[int] = field(default_factory=set)
    was_refused: bool = False


@dataclass
class Memory:
    """What all customers together were told.

    Attributes:
        statuses: by order, each status that somebody was shown.
        answers: how often each HTTP status and error code came, by what was asked.
        lost: answers that never came.
    """

    wishes: list[Wish] = field(default_factory=list)
    statuses: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    answers: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    lost: int = 0


class Customer:
    """Orders, pays, cancels and looks, at one gateway or the other.

    Args:
        levels: (product, warehouse) pairs that can be ordered.
    """

    def __init__(
        self, name: str, gateways: Sequence[str], levels: Sequence[tuple[int, int]], memory: Memory, chance: Random
    ) -> None:
        self._name = name
        self._gateways = gateways
        self._levels = levels
        self._memory = memory
        self._chance = chance
        self._keys = (f"{name}-{number}-{uuid.uuid4().hex[:8]}" for number in itertools.count(1))

    async def shop(self, is_over: asyncio.Event) -> None:
        """One order after the other until the event; then finish the last one."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_SECONDS)
        headers = {"X-API-Key": DEVELOPMENT_API_KEY}
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as self._session:
            for number in itertools.count(1):
                if is_over.is_set():
                    return
                await self._buy(f"{self._name}, order {number}")
                await self._pause()

    async def _buy(self, address: str) -> None:
        key = next(self._keys) if self._chance.random() < KEY_SHARE else None
        wish = Wish(address)
        self._memory.wishes.append(wish)
        answer = await self._ask("place", "/orders", self._order(address), key)
        if answer is None or answer.status not in (201, 202):
            wish.was_refused = answer is not None and answer.status == 409
            return
        order_id = answer.data["id"]
        wish.order_ids.add(order_id)
        if answer.status == 202:
            await self._look(order_id, wait=2)
        luck = self._chance.random()
        if luck < 0.6:
            await self._pay(order_id)
        elif luck < 0.75:
            await self._cancel(order_id)
        if self._chance.random() < 0.3:
            await self._look(order_id)

    def _order(self, address: str) -> dict[str, Any]:
        chosen = self._chance.sample(self._levels, self._chance.choice((1, 1, 2)))
        items = [
            {
                "product_id": product,
                "warehouse_id": self._chance.choice((warehouse, None)),
                "quantity": self._chance.randint(1, 3),
            }
            for product, warehouse in chosen
        ]
        return {"user_id": self._name, "shipping_address": address, "payment_method": "card", "items": items}

    async def _pay(self, order_id: int) -> None:
        key = next(self._keys) if self._chance.random() < KEY_SHARE else None
        body = {"payment_reference": "simulate-decline"} if self._chance.random() < DECLINE_SHARE else {}
        answer = await self._ask("pay", f"/orders/{order_id}/payment", body, key)
        if answer is not None and answer.code in ("PAYMENT_DECLINED", "RESERVATION_EXPIRED"):
            self._memory.statuses[order_id].add("cancelled")
        if self._chance.random() < 0.25:
            await self._cancel(order_id)

    async def _cancel(self, order_id: int) -> None:
        key = next(self._keys) if self._chance.random() < KEY_SHARE else None
        await self._ask("cancel", f"/orders/{order_id}/cancel", {}, key)

    async def _look(self, order_id: int, wait: int = 0) -> None:
        await self._try("look", f"/orders/{order_id}?wait={wait}", None, None)

    async def _ask(self, what: str, path: str, body: dict[str, Any], key: str | None) -> Answer | None:
        """The answer to a request; without a key it is sent once, with one until a lasting answer comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        answer = await self._try(what, path, body, key)
        while key is not None and (answer is None or _asks_to_be_repeated(answer)):
            assert time.monotonic() < deadline, f"{what} {path}: no lasting answer in {PATIENCE_SECONDS} s: {answer}"
            await self._pause()
            answer = await self._try(what, path, body, key)
        return answer

    async def _try(self, what: str, path: str, body: dict[str, Any] | None, key: str | None) -> Answer | None:
        """One request to any gateway; None if its answer got lost."""
        url = f"{self._chance.choice(self._gateways)}{path}"
        method = "GET" if body is None else "POST"
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            async with self._session.request(method, url, json=body, headers=headers) as response:
                document = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            self._memory.lost += 1
            return None
        answer = Answer(response.status, document.get("data", {}), document.get("error", {}).get("code", ""))
        self._memory.answers[what, answer.status, answer.code] += 1
        if answer.status < 300:
            self._memory.statuses[answer.data["id"]].add(answer.data["status"])
        return answer

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, PAUSE_SECONDS))


def _asks_to_be_repeated(answer: Answer) -> bool:
    return answer.status in _REPEATED or answer.code in ("REQUEST_IN_PROGRESS", "PAYMENT_IN_PROGRESS")
