"""The order service without its HTTP, on a real database, with an outside that fails by script."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select, update

from order_gateway.gateway.port import (
    Call,
    Done,
    GatewayFault,
    HeldLine,
    Hold,
    HoldState,
    Refusal,
    StockLine,
)
from order_gateway.lifecycle import NewItem, NewOrder, Order, Way
from order_gateway.payments import Authorised, Bill, Charged, Payments, Refunded
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga, SagaSettings
from order_gateway.settings import OrdersSettings, PaymentSettings
from order_gateway.storage import tables
from order_gateway.storage.store import Store, StoreSettings
from service_kit.database.database import Database, DatabaseSettings
from tests.kits.orders_by_hand import ByHand
from tests.kits.unasked_warehouse import UnaskedWarehouse

AWAY = GatewayFault("WAREHOUSE_UNAVAILABLE", "away")
EXPIRED = Refusal("RESERVATION_EXPIRED", "too late")
SHORT = Refusal("INSUFFICIENT_STOCK", "not enough", ({"product_id": 1, "requested": 2, "available": 0},))


class Outside(UnaskedWarehouse):
    """Warehouse and payment provider in one: what `script` has for a call is raised or returned, else all is well."""

    name = "outside"

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, str]] = []

    def happens(self, name: str, key: str, otherwise: Any) -> Any:
        self.calls.append((name, key))
        waiting = self.script.get(name)
        outcome = waiting.pop(0) if waiting else otherwise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def names(self) -> list[str]:
        return [name for name, _key in self.calls]

    async def reserve(self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call) -> Any:
        now = datetime.now(UTC)
        # The end of the order's name is random digits; as long as the column.
        held = tuple(HeldLine(line.product_id, line.warehouse_id, line.quantity) for line in lines)
        until = now + timedelta(seconds=ttl_seconds)
        hold = Hold(f"hold-{order_id}"[-36:], order_id, HoldState.RESERVED, held, now, until)
        return self.happens("reserve", call.request_id, hold)

    async def state_of(self, reservation_id: str, call: Call) -> HoldState:
        return HoldState.RESERVED

    async def commit(self, reservation_id: str, call: Call) -> Any:
        return self.happens("commit", call.request_id, Done())

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Any:
        return self.happens("cancel", reserve_request_id, Done())

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Any:
        return self.happens("give_back", call.request_id, Done())

    async def is_serving(self) -> bool:
        return True

    async def authorise(self, bill: Bill) -> Any:
        return self.happens("authorise", bill.key, Authorised("ref-1"))

    async def charge(self, bill: Bill) -> Any:
        return self.happens("charge", bill.key, Charged("ref-1"))

    async def refund(self, bill: Bill) -> Any:
        return self.happens("refund", bill.key, Refunded())

    async def look_up(self, bill: Bill) -> Any:
        return self.happens("look_up", bill.key, None)

    async def close(self) -> None:
        pass


class World(ByHand):
    """The order service without its HTTP, and the hands of a test on its clock."""

    def __init__(self, url: str, outside: Outside | None = None, settings: DatabaseSettings | None = None) -> None:
        self.url = url
        self.database = Database(url, settings)
        self.outside = outside or Outside()
        self.settings = OrdersSettings.model_validate({"profile": "development", "database_url": url})
        self.store = Store(self.database, StoreSettings(900, 120))
        self.intents = PendingSteps(self.database)
        payments = Payments(self.outside, PaymentSettings(tries=1))
        self.saga = Saga(self.store, self.outside, payments, SagaSettings(120, 1, 1, 1, 1))
        self.relay = Relay(self.store, self.intents, self.saga, self.settings)

    async def close(self) -> None:
        await self.store.close()
        await self.database.close()

    async def create_order(self, way: Way = Way.GRPC) -> Order:
        item = NewItem(1, 1, 2, Decimal("19.99"))
        return await self.saga.create_order(NewOrder("u", "Street 1", "card", (item, item), "c-1", "test", way))

    async def open_steps(self) -> list[str]:
        async with self.database.engine.connect() as connection:
            rows = await connection.execute(select(tables.intents.c.step))
            return sorted(row.step for row in rows)

    async def pass_deadline(self, order: Order) -> None:
        async with self.database.engine.begin() as connection:
            past = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
            orders = tables.orders
            await connection.execute(update(orders).where(orders.c.id == order.id).values(payment_deadline=past))
