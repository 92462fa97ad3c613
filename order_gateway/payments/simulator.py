"""A provider that takes no money, for development."""

import asyncio
import hashlib
import random
from decimal import Decimal

from order_gateway.payments.port import Authorised, Bill, Charged, Declined, ProviderFault, Refunded
from order_gateway.payments.settings import SimulatorSettings

SIMULATE_DECLINE = "simulate-decline"
"""A payment reference that the simulator always declines."""


class PaymentSimulator:
    """Its answers follow from the key alone, so that they survive restarts and any number of repeats."""

    name = "simulator"

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings

    async def authorise(self, bill: Bill) -> Authorised | Declined:
        """Accept or decline by amount band. Raises: ProviderFault."""
        await self._travel()
        return self._decide(bill)

    async def charge(self, bill: Bill) -> Charged:
        """Always works for what was authorised, unless the answer gets lost. Raises: ProviderFault."""
        await self._travel()
        return Charged(f"sim-{self._digest(bill.key)[12:28]}")

    async def refund(self, bill: Bill) -> Refunded:
        """Always works, unless the answer gets lost. Raises: ProviderFault."""
        await self._travel()
        return Refunded()

    async def look_up(self, bill: Bill) -> Authorised | Declined:
        """What was or will be answered. Raises: ProviderFault."""
        await self._travel()
        return self._decide(bill)

    async def close(self) -> None:
        """Nothing: there is no connection."""

    def _decide(self, bill: Bill) -> Authorised | Declined:
        digest = self._digest(bill.key)
        luck = int(digest[:12], 16) / 16**12
        if bill.reference == SIMULATE_DECLINE or luck >= self._success_rate(bill.amount):
            return Declined("the payment was declined")
        return Authorised(f"sim-{digest[12:28]}")

    def _digest(self, key: str) -> str:
        return hashlib.sha256(f"{self._settings.seed}:{key}".encode()).hexdigest()

    def _success_rate(self, amount: Decimal) -> float:
        for band in self._settings.bands:
            if band.below is None or amount < band.below:
                return band.success_rate
        return 0

    async def _travel(self) -> None:
        await asyncio.sleep(self._settings.delay_seconds)
        if random.random() < self._settings.lost_answer_rate:  # noqa: S311 - a simulation, not a secret
            raise ProviderFault("the provider's answer got lost")


class RetiredSimulator:
    """Ends what the simulator began, where it may not be used any more: it took no money, and takes none."""

    name = "simulator"

    async def authorise(self, bill: Bill) -> Declined:
        """Decline."""
        return Declined("the payment was only simulated, and simulations are not accepted any more")

    async def charge(self, bill: Bill) -> Declined:
        """Decline."""
        return await self.authorise(bill)

    async def refund(self, bill: Bill) -> Refunded:
        """There is nothing to give back."""
        return Refunded()

    async def look_up(self, bill: Bill) -> Declined:
        """Decline."""
        return await self.authorise(bill)

    async def close(self) -> None:
        """Nothing: there is no connection."""
