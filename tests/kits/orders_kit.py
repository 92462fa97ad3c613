"""What tests of orders share: the order service without its HTTP, on real databases and with a real warehouse."""

import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from order_gateway.audit.agreement import Problem
from order_gateway.audit.checking import OrdersAudit
from order_gateway.bootstrap import Core, saga_settings
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.lifecycle import NewItem, NewOrder, Order, Reason, Step, Way
from order_gateway.payments import Authorised, Bill, Charged, Declined, Payments, Refunded
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga
from order_gateway.settings import OrdersSettings
from order_gateway.storage.store import Store, StoreSettings
from service_kit.database.database import Database
from stockwarden_client import ClientSettings, WarehouseClient
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.orders_by_hand import ByHand
from tests.kits.warehouse_kit import Calls, calling, sql
from warehouse.server import running
from warehouse.settings import WarehouseSettings


class Till:
    """A payment provider that keeps its books: each key is charged once, with the answer that it got first."""

    def __init__(self) -> None:
        self.charged: dict[str, Decimal] = {}
        self.refunded: set[str] = set()
        self.asked: list[str] = []

    name = "simulator"

    async def authorise(self, bill: Bill) -> Authorised:
        """Always."""
        self.asked.append(bill.key)
        return Authorised(f"ref-{bill.key}")

    async def charge(self, bill: Bill) -> Charged | Declined:
        """Once per key."""
        if bill.key in self.refunded and bill.key not in self.charged:
            return Declined("it was given up")
        self.charged.setdefault(bill.key, bill.amount)
        return Charged(f"ref-{bill.key}")

    async def refund(self, bill: Bill) -> Refunded:
        """What was charged under the key; what was not never will be."""
        self.refunded.add(bill.key)
        return Refunded()

    async def look_up(self, bill: Bill) -> Charged | None:
        """As it is in the books."""
        return Charged(f"ref-{bill.key}") if bill.key in self.charged else None

    async def close(self) -> None:
        """Nothing to hang up."""

    @property
    def kept(self) -> Decimal:
        """The money that was taken and not given back."""
        return sum((amount for key, amount in self.charged.items() if key not in self.refunded), Decimal(0))


class Shop(ByHand):
    """The order service and its warehouse. Make it with `shop`."""

    def __init__(self, orders_url: str, warehouse_url: str, client: WarehouseClient, calls: Calls, till: Till) -> None:
        self.orders_url = orders_url
        self.warehouse_url = warehouse_url
        self.client = client
        self.calls = calls
        self.till = till
        self.database = Database(orders_url)
        self.settings = OrdersSettings.model_validate({"profile": "development", "database_url": orders_url})
        self.store = Store(self.database, StoreSettings(900, 120))
        self.gateway = GrpcGateway(client)
        self.intents = PendingSteps(self.database)
        self.payments = Payments(till, self.settings.payments)
        self.saga = Saga(self.store, self.gateway, self.payments, saga_settings(self.settings))
        self.relay = Relay(self.store, self.intents, self.saga, self.settings)

    async def close(self) -> None:
        """Hang up."""
        await self.gateway.close()
        await self.store.close()
        await self.database.close()

    @property
    def core(self) -> Core:
        """As the commands have it, with this shop's till."""
        return Core(self.settings, self.database, self.gateway, self.store, self.payments)

    @property
    def audit(self) -> OrdersAudit:
        """The comparison."""
        return self.core.audit()

    async def problems(self) -> list[tuple[int, Problem]]:
        """What the audit finds."""
        return [(finding.row.id, finding.problem) for finding in (await self.audit.run()).findings]

    async def mend(self) -> None:
        """Repair once."""
        await self.core.repair().run((await self.audit.run()).findings)

    async def create_order(self, quantity: int = 2, way: Way = Way.GRPC, **item: Any) -> Order:
        """An order of one line."""
        line = NewItem(**{"product_id": 1, "warehouse_id": 1, "quantity": quantity, "unit_price": Decimal(10), **item})
        return await self.saga.create_order(NewOrder("u", "Street 1", "card", (line,), "c-1", "test", way))

    async def paid(self, quantity: int = 2) -> Order:
        """An order that is paid and sold."""
        return (await self.saga.pay((await self.create_order(quantity)).id, "test")).order

    async def cancelled(self) -> Order:
        """An order that ended before it was paid."""
        return (await self.saga.cancel((await self.create_order()).id, "test", Reason.CUSTOMER, None)).order

    async def returned(self) -> Order:
        """An order that ended after it was paid."""
        return (await self.saga.cancel((await self.paid()).id, "test", Reason.CUSTOMER, None)).order

    async def read(self, order: Order) -> Order:
        """As it is now."""
        return await self.store.read(order.id)

    async def key(self, order: Order, step: Step) -> str:
        """The request id of a step."""
        return (await self.store.name(order)).request_id(step)

    async def holds_of(self, order: Order) -> list[pb.Reservation]:
        """What the warehouse has under the request id of its RESERVE."""
        [outcome] = await self.client.get_requests([await self.key(order, Step.RESERVE)])
        return list(outcome.reservations)

    def in_warehouse(self, statement: str) -> list[tuple[Any, ...]]:
        """Look at the warehouse's database, or change it by hand."""
        return sql(self.warehouse_url, statement)

    async def level(self) -> tuple[int, int]:
        """(on hand, reserved) of product 1 in warehouse 1."""
        return await self.calls.level()


@contextlib.asynccontextmanager
async def shop(orders_url: str, warehouse_url: str, till: Till | None = None, stock: int = 100) -> AsyncIterator[Shop]:
    """A shop with `stock` units of product 1 in warehouse 1 (0: whatever is there)."""
    settings = WarehouseSettings(
        database_url=warehouse_url, listen="127.0.0.1:0", sweep_seconds=3600, stop_grace_seconds=1
    )
    async with running(settings) as port, calling(f"127.0.0.1:{port}") as calls:
        if stock:
            await calls.keep({(1, 1): stock})
        async with WarehouseClient(ClientSettings(target=f"127.0.0.1:{port}", deadline_seconds=3)) as client:
            opened = Shop(orders_url, warehouse_url, client, calls, till or Till())
            try:
                yield opened
            finally:
                await opened.close()
