"""Taking money: the protocol of a payment provider, who asks it again when an answer gets lost, and a simulator."""

import asyncio
import hashlib
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import structlog
import tenacity

from order_gateway.settings import PaymentSettings, SimulatorSettings

log = structlog.get_logger(__name__)
SIMULATE_DECLINE = "simulate-decline"
"""A payment reference that the simulator always declines."""


@dataclass(frozen=True, slots=True)
class Authorised:
    """The money is there and set aside for us; none has moved."""

    provider_reference: str


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
    """Idempotent by key: each call, asked again, gives its first answer again and moves no more money."""

    async def authorise(self, key: str, amount: Decimal, method: str, reference: str | None) -> Authorised | Declined:
        """Set `amount` aside. Raises: ProviderFault."""
        ...

    async def charge(self, key: str, amount: Decimal) -> Charged | Declined:
        """Take `amount`, which was authorised under the same key. Raises: ProviderFault."""
        ...

    async def refund(self, key: str, amount: Decimal) -> None:
        """Give back what was charged under `key`, and let go of what was set aside.

        What the provider has not done yet under this key, it never will. Raises: ProviderFault.
        """
        ...


class Payments:
    """Takes and gives back money; asks again, under the same key, when the provider's answer did not come."""

    def __init__(self, provider: PaymentProvider, settings: PaymentSettings) -> None:
        self._provider = provider
        self._settings = settings

    async def take(self, key: str, amount: Decimal, method: str, reference: str | None) -> Charged | Declined:
        """Authorise, then charge. Raises: ProviderFault, when the tries are used up."""
        provider = self._provider
        authorised: Authorised | Declined = await self._retrying()(provider.authorise, key, amount, method, reference)
        if isinstance(authorised, Declined):
            return authorised
        return await self._retrying()(provider.charge, key, amount)

    async def give_back(self, key: str, amount: Decimal) -> None:
        """Undo whatever was done under `key`. Raises: ProviderFault, when the tries are used up."""
        await self._retrying()(self._provider.refund, key, amount)

    def _retrying(self) -> tenacity.AsyncRetrying:
        settings = self._settings
        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(settings.tries),
            wait=tenacity.wait_random_exponential(
                multiplier=settings.retry_wait_initial_seconds, max=settings.retry_wait_max_seconds
            ),
            retry=tenacity.retry_if_exception_type(ProviderFault),
            before_sleep=lambda state: log.info("provider_asked_again", attempt=state.attempt_number),
            reraise=True,
        )


class PaymentSimulator:
    """A provider whose answers follow from the key alone, so that they survive restarts and any number of repeats."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings

    async def authorise(self, key: str, amount: Decimal, method: str, reference: str | None) -> Authorised | Declined:
        """Accept or decline by amount band. Raises: ProviderFault."""
        await self._travel()
        digest = self._digest(key)
        luck = int(digest[:12], 16) / 16**12
        if reference == SIMULATE_DECLINE or luck >= self._success_rate(amount):
            return Declined("the payment was declined")
        return Authorised(f"sim-{digest[12:28]}")

    async def charge(self, key: str, amount: Decimal) -> Charged | Declined:
        """Always works for what was authorised, unless the answer gets lost. Raises: ProviderFault."""
        await self._travel()
        return Charged(f"sim-{self._digest(key)[12:28]}")

    async def refund(self, key: str, amount: Decimal) -> None:
        """Always works, unless the answer gets lost. Raises: ProviderFault."""
        await self._travel()

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
