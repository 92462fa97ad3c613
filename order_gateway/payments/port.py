"""What a payment provider is asked, and what it can answer."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Bill:
    """What is to be paid for an order; `key` is the order's own, and the same whatever is asked about this payment.

    Attributes:
        currency: an ISO 4217 code.
        reference: what the customer or the calling service named the payment.
    """

    order_id: int
    key: str
    amount: Decimal
    currency: str
    method: str
    reference: str | None


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
    """The provider said no, and will not say anything else."""

    message: str


@dataclass(frozen=True, slots=True)
class Pending:
    """The provider has understood, and does not know yet: ask again later, or wait for its callback."""


@dataclass(frozen=True, slots=True)
class Refunded:
    """No money of this payment is with us, and none will be."""


@dataclass(frozen=True, slots=True)
class RefundRequested:
    """Somebody else has to give the money back, and will confirm it."""


class ProviderFault(Exception):
    """The provider's answer did not come, or is none; ask again with the same key."""


class PaymentProvider(Protocol):
    """Idempotent by key: each call, asked again, gives its first answer again and moves no more money.

    Attributes:
        name: kept with each payment, so that it is always the same one who is asked about it.
    """

    @property
    def name(self) -> str: ...

    async def authorise(self, bill: Bill) -> Authorised | Charged | Declined | Pending:
        """Set the amount aside; Charged if it was taken before. Raises: ProviderFault."""
        ...

    async def charge(self, bill: Bill) -> Charged | Declined | Pending:
        """Take the amount, which was authorised under the same key. Raises: ProviderFault."""
        ...

    async def refund(self, bill: Bill) -> Refunded | RefundRequested | Pending:
        """Give back what was charged under the key, and release what was set aside.

        What the provider has not done yet under this key, it never will. Raises: ProviderFault.
        """
        ...

    async def look_up(self, bill: Bill) -> Authorised | Charged | Declined | Pending | None:
        """How the payment stands, for when an answer got lost; None: never heard of it. Raises: ProviderFault."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
