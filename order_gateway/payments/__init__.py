"""Taking money: the port of a payment provider, three providers, and who asks again when an answer gets lost."""

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
from order_gateway.payments.simulator import SIMULATE_DECLINE, PaymentSimulator
from order_gateway.payments.taking import Payments

__all__ = [
    "SIMULATE_DECLINE",
    "Authorised",
    "Bill",
    "Charged",
    "Declined",
    "PaymentProvider",
    "PaymentSimulator",
    "Payments",
    "Pending",
    "ProviderFault",
    "RefundRequested",
    "Refunded",
]
