"""Takes and gives back money; asks again, under the same key, when the provider's answer did not come."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog
import tenacity

from order_gateway.payments.port import (
    Authorised,
    Bill,
    Charged,
    Declined,
    PaymentProvider,
    Pending,
    ProviderFault,
    Refunded,
    RefundRequested,
)
from order_gateway.payments.settings import PaymentSettings
from service_kit.metrics import Histogram, Measure, Tally

log = structlog.get_logger(__name__)
T = TypeVar("T")
FREE = "nothing-to-pay"
"""The provider reference of a payment of 0.00, which no provider is troubled with."""


class Payments:
    """Money, by whichever provider has to do with it.

    Args:
        provider: takes what is paid from now on.
        others: those who may have taken something before, by name; each is asked about its own payments only.
    """

    def __init__(
        self, provider: PaymentProvider, settings: PaymentSettings, others: Mapping[str, PaymentProvider] | None = None
    ) -> None:
        self._provider = provider
        self._others = others or {}
        self._settings = settings
        self._calls = Tally(
            "order_gateway_payment_calls",
            "Calls to payment providers; the outcome is the kind of answer, or ProviderFault if there was none.",
            ("provider", "operation", "outcome"),
        )
        self._call_seconds = Histogram(
            "order_gateway_payment_call_duration_seconds", "The time these calls took.", ("provider", "operation")
        )

    @property
    def measures(self) -> list[Measure]:
        """What it counts, for metrics."""
        return [self._calls, self._call_seconds]

    @property
    def provider_name(self) -> str:
        """Who takes what is paid from now on."""
        return self._provider.name

    @property
    def are_external(self) -> bool:
        """Whether it is the caller who takes the money, and must name it by a reference."""
        return self._provider.name == "external"

    async def take(self, bill: Bill, provider_name: str | None = None) -> Charged | Declined | Pending:
        """Authorise, then charge. Raises: ProviderFault, when the tries are used up."""
        if not bill.amount:
            return Charged(FREE)
        provider = self._named(provider_name)
        answer = await self._ask("authorise", provider.authorise, provider, bill, (type(None),))
        if not isinstance(answer, Authorised):
            return answer
        taken = await self._ask("charge", provider.charge, provider, bill, (type(None), Authorised))
        assert not isinstance(taken, Authorised)
        return taken

    async def give_back(self, bill: Bill, provider_name: str | None = None) -> Refunded | RefundRequested | Pending:
        """Undo whatever was done under the key. Raises: ProviderFault, when the tries are used up."""
        if not bill.amount:
            return Refunded()
        provider = self._named(provider_name)
        return await self._retrying()(self._observed, "refund", provider.refund, provider, bill)

    async def close(self) -> None:
        """Close the connections."""
        for provider in (self._provider, *self._others.values()):
            await provider.close()

    async def _ask(
        self,
        name: str,
        operation: Callable[[Bill], Awaitable[T]],
        provider: PaymentProvider,
        bill: Bill,
        undone: tuple[type[object], ...],
    ) -> T | Authorised | Charged | Declined | Pending:
        """The answer to an operation; after a lost one, how the payment stands, unless that is as before: `undone`."""
        async for attempt in self._retrying():
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    known = await self._observed("look_up", provider.look_up, provider, bill)
                    if known is not None and not isinstance(known, undone):
                        return known
                return await self._observed(name, operation, provider, bill)
        raise AssertionError("the last try ends with an answer or a fault")

    async def _observed(
        self, name: str, operation: Callable[[Bill], Awaitable[T]], provider: PaymentProvider, bill: Bill
    ) -> T:
        """One call, counted and timed."""
        started = time.perf_counter()
        outcome = "Cancelled"
        try:
            answer = await operation(bill)
            outcome = type(answer).__name__
        except ProviderFault:
            outcome = ProviderFault.__name__
            raise
        finally:
            self._calls.add(provider.name, name, outcome)
            self._call_seconds.observe(time.perf_counter() - started, provider.name, name)
        return answer

    def _named(self, name: str | None) -> PaymentProvider:
        if name is None or name == self._provider.name:
            return self._provider
        if name in self._others:
            return self._others[name]
        message = f"this payment went to the provider {name}, which is not configured any more: configure it until then"
        raise ProviderFault(message)

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
