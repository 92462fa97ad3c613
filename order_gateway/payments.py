"""Taking money: the protocol of a payment provider, and a simulator of one."""

import asyncio
import hashlib
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from order_gateway.settings import SimulatorSettings

SIMULATE_DECLINE = "simulate-decline"
"""A payment reference that the simulator always declines."""


@dataclass(frozen=True, slots=True)
class Charged:
    """The money is taken."""

    provider_reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider said no, for good."""

    message: str


class ProviderFault(Exception):
    """The provider's answer did not come; ask again with the same key."""


class PaymentProvider(Protocol):
    """Idempotent by key: asked again, it gives the first answer again and moves no more money."""

    async def charge(self, key: str, amount: Decimal, method: str, reference: str | None) -> Charged | Declined:
        """Take `amount`. Raises: ProviderFault."""
        ...

    async def refund(self, key: str, amount: Decimal) -> None:
        """Give back what the charge of `key` took; if it took nothing yet, it never will. Raises: ProviderFault."""
        ...


class PaymentSimulator:
    """A provider whose answers follow from the key alone, so that they survive restarts and any number of repeats."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings

    async def charge(self, key: str, amount: Decimal, method: str, reference: str | None) -> Charged | Declined:
        """Accept or decline by amount band. Raises: ProviderFault."""
        await self._travel()
        digest = hashlib.sha256(f"{self._settings.seed}:{key}".encode()).hexdigest()
        luck = int(digest[:12], 16) / 16**12
        if reference == SIMULATE_DECLINE or luck >= self._success_rate(amount):
            return Declined("the payment was declined")
        return Charged(f"sim-{digest[12:28]}")

    async def refund(self, key: str, amount: Decimal) -> None:
        """Always works, unless the answer gets lost. Raises: ProviderFault."""
        await self._travel()

    def _success_rate(self, amount: Decimal) -> float:
        for band in self._settings.bands:
            if band.below is None or amount < band.below:
                return band.success_rate
        return 0

    async def _travel(self) -> None:
        await asyncio.sleep(self._settings.delay_seconds)
        if random.random() < self._settings.lost_answer_rate:  # noqa: S311 - a simulation, not a secret
            raise ProviderFault("the provider's answer got lost")
