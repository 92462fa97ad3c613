"""What must be so before the order service starts, and how its commands fail."""

from collections.abc import Iterator
from contextlib import contextmanager

from order_gateway.gateway.port import GatewayFault
from order_gateway.settings import OrdersSettings
from service_kit.database.problems import Service, database_explained
from service_kit.starting import NotStarted, explained

SERVICE = Service(
    module="order_gateway",
    migrations="orders",
    prefix="ORDERS_",
    needs=(
        "INSERT INTO history SELECT * FROM history WHERE FALSE",
        "UPDATE orders SET version = version WHERE FALSE",
        "DELETE FROM idempotency_keys WHERE FALSE",
    ),
)
"""The rights that are looked at stand for those of their kind."""


@contextmanager
def failures_explained(settings: OrdersSettings) -> Iterator[None]:
    """A database or a warehouse that is away, or refuses, ends the command with one line and Exit.NEEDED."""
    with explained(), database_explained(settings.database_url, SERVICE):
        try:
            yield
        except GatewayFault as fault:
            raise NotStarted(
                f"the warehouse at {settings.warehouse_target} (ORDERS_WAREHOUSE_TARGET): {fault}"
            ) from fault
