"""Which providers there are, as configured."""

from order_gateway.payments.external import ExternalPayments
from order_gateway.payments.http_provider import HttpProvider
from order_gateway.payments.port import PaymentProvider
from order_gateway.payments.settings import PaymentSettings, SimulatorSettings
from order_gateway.payments.simulator import PaymentSimulator, RetiredSimulator
from order_gateway.payments.taking import Payments


def make_payments(settings: PaymentSettings, simulator: SimulatorSettings, profile: str) -> Payments:
    """Payments by the provider that is set; the others only end what they began.

    Without one (a repair begins no payments, and serving is refused) it is the one that takes no money by itself.
    """
    is_development = profile == "development"
    every: dict[str, PaymentProvider] = {
        "simulator": PaymentSimulator(simulator) if is_development else RetiredSimulator(),
        "external": ExternalPayments(),
    }
    if settings.has_http:
        every["http"] = HttpProvider(settings.http)
    chosen = settings.provider or ("simulator" if is_development else "external")
    return Payments(every.pop(chosen), settings, every)
