"""How settings become the parts that the service and its commands have in common."""

from order_gateway.payments import Payments
from order_gateway.payments.choosing import make_payments
from order_gateway.saga.steps import SagaSettings
from order_gateway.settings import OrdersSettings


def payments(settings: OrdersSettings) -> Payments:
    """Who takes the money; close it at the end."""
    return make_payments(settings.payments, settings.simulator, settings.profile)


def saga_settings(settings: OrdersSettings) -> SagaSettings:
    """The time bounds of the steps."""
    return SagaSettings(
        hold_grace_seconds=settings.hold_grace_seconds,
        reserve_deadline_seconds=settings.reserve_deadline_seconds,
        step_deadline_seconds=settings.step_deadline_seconds,
        charge_timeout_seconds=settings.charge_timeout_seconds,
        lease_margin_seconds=settings.lease_margin_seconds,
        warehouse_changes_max=settings.warehouse_changes_max,
    )
