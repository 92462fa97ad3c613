"""One contract for every way to the warehouse: however an order goes there, it ends the same."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from order_gateway.audit.checking import OrdersAudit
from order_gateway.gateway.breaker import BreakerSettings, GuardedGateway
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.gateway.modes import Modes
from order_gateway.gateway.port import Call, GatewayFault, Mode, Refusal, StockLine
from order_gateway.lifecycle import (
    NewItem,
    NewOrder,
    Order,
    Payment,
    Reason,
    Status,
    Stock,
    is_settled,
)
from order_gateway.payments import Payments, PaymentSimulator
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga, SagaSettings, StepFault
from order_gateway.settings import OrdersSettings, PaymentSettings, SimulatorSettings
from order_gateway.storage.store import Store, StoreSettings
from service_kit.database.database import Database
from stockwarden_client import ClientSettings, WarehouseClient, stock_pb2
from tests.kits.processes import Processes
from tests.kits.waiting import until
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
DEADLINE_SECONDS = 1
PLACES = (1, 2, 3)


class Shop:
    """The order service without its HTTP, in one of the modes, before a real warehouse."""

    def __init__(self, mode: Mode, processes: Processes, warehouse_url: str, orders_url: str) -> None:
        self.processes, self.warehouse_url = processes, warehouse_url
        self.process, self.target = processes.warehouse(warehouse_url)
        self.database = Database(orders_url)
        self.client = WarehouseClient(ClientSettings(target=self.target, attempt_timeout_seconds=0.5))
        self.calls = GrpcGateway(self.client)
        breaker = BreakerSettings(failures_max=2, probe_seconds=0.1)
        self.gateway = GuardedGateway(self.calls, breaker)
        self.modes = Modes(self.database, self.gateway, mode, 1)
        self.store = Store(self.database, StoreSettings(900, 120))
        payments = Payments(PaymentSimulator(SimulatorSettings()), PaymentSettings())
        bounds = SagaSettings(120, DEADLINE_SECONDS, DEADLINE_SECONDS, 1, 1)
        self.saga = Saga(self.store, self.gateway, payments, bounds, self.modes.choose)
        relaying = {"poll_seconds": 0.05, "retry_wait_initial_seconds": 0.05, "retry_wait_max_seconds": 0.2}
        settings = OrdersSettings.model_validate(
            {"profile": "development", "database_url": orders_url, "relay": relaying}
        )
        self.relay = Relay(self.store, PendingSteps(self.database), self.saga, settings)
        self.saga.nudge = self.relay.nudge
        self.audit = OrdersAudit(self.database, self.store, self.calls)

    async def create_order(self, quantity: int = 2) -> Order:
        """Place an order, and wait until its stock is held or refused."""
        item = NewItem(1, 1, quantity, Decimal("19.99"))
        placed = await self.saga.create_order(NewOrder("u", "Street 1", "card", (item,), "c-1", "test"))
        return await self.settled(placed.id)

    async def settled(self, order_id: int) -> Order:
        """The order, once nothing remains to be done for it."""

        async def is_done() -> bool:
            return is_settled((await self.store.read(order_id)).state)

        await until(is_done)
        return await self.store.read(order_id)

    async def levels(self) -> tuple[int, int]:
        level = await self.client.get_inventory(1, 1)
        return level.on_hand, level.reserved

    async def restart(self) -> None:
        port = int(self.target.rpartition(":")[2])
        self.process, _ = await asyncio.to_thread(self.processes.warehouse, self.warehouse_url, port=port)

    async def close(self) -> None:
        await self.calls.close()
        await self.store.close()
        await self.client.close()
        await self.database.close()


@pytest.fixture(params=list(Mode))
async def shop(
    request: pytest.FixtureRequest, processes: Processes, warehouse_database_url: str, orders_database_url: str
) -> AsyncIterator[Shop]:
    shop = Shop(request.param, processes, warehouse_database_url, orders_database_url)
    await load_demo(shop.target, "")
    background = [asyncio.create_task(shop.relay.run()), asyncio.create_task(shop.gateway.watch())]
    yield shop
    await shop.relay.stop()
    background[1].cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await shop.close()


async def test_orders_of_every_ending(shop: Shop) -> None:
    waiting, paid, cancelled, returned = [await shop.create_order() for _ in range(4)]
    assert [order.state.status for order in (waiting, paid, cancelled, returned)] == [Status.PENDING] * 4
    assert await shop.levels() == (100, 8)
    await shop.saga.pay(paid.id, "test")
    await shop.saga.pay(returned.id, "test")
    await shop.saga.cancel(cancelled.id, "test", Reason.CUSTOMER, None)
    await shop.saga.cancel(returned.id, "test", Reason.CUSTOMER, None)
    ended = [(await shop.settled(order.id)).state for order in (paid, cancelled, returned)]
    assert [state.stock for state in ended] == [Stock.COMMITTED, Stock.FREE, Stock.RETURNED]
    assert [state.payment for state in ended] == [Payment.CHARGED, Payment.NONE, Payment.REFUNDED]
    assert await shop.levels() == (98, 2)
    refused = await shop.create_order(1000)
    assert refused.state.status is Status.REJECTED
    assert refused.refusal is not None
    assert refused.refusal["code"] == "INSUFFICIENT_STOCK"
    assert (await shop.audit.run()).findings == []


async def test_the_ledger_says_on_whose_behalf(shop: Shop) -> None:
    paid, cancelled = await asyncio.gather(shop.create_order(), shop.create_order())
    await shop.saga.pay(paid.id, "bob")
    await shop.saga.cancel(cancelled.id, "eve", Reason.CUSTOMER, None)
    for order in (paid, cancelled):
        await shop.settled(order.id)
    page = await shop.client.list_movements(stock_pb2.ListMovementsRequest(product_id=1, warehouse_id=1, page_size=4))
    actors = Counter((movement.type, movement.actor) for movement in page.movements)
    assert actors == {
        (stock_pb2.MOVEMENT_TYPE_RESERVED, "anonymous/test"): 2,
        (stock_pb2.MOVEMENT_TYPE_COMMITTED, "anonymous/bob"): 1,
        (stock_pb2.MOVEMENT_TYPE_RELEASED, "anonymous/eve"): 1,
    }


async def test_stock_that_is_split_over_warehouses_is_sold_to_the_last_unit(shop: Shop) -> None:
    """All customers see the first warehouse free; who is refused there is sent on, and nobody gets too much."""
    third = stock_pb2.CreateWarehouseRequest(request_id="w-3", warehouse_id=3, code="WEST", name="West", priority=3)
    await shop.client.create_warehouse(third)
    await shop.client.create_product(stock_pb2.CreateProductRequest(product_id=4, sku="CAP", name="Cap"))
    for place in PLACES:
        await shop.client.add_stock(4, place, 5, request_id=f"more-{place}")
    item = NewItem(4, 1, 1, Decimal("5.00"), any_warehouse=True)
    placed = await asyncio.gather(
        *(shop.saga.create_order(NewOrder("u", "Street 1", "card", (item,), "c-1", "test")) for _ in range(25))
    )
    orders = [await shop.settled(order.id) for order in placed]
    assert Counter(order.state.status for order in orders) == {Status.PENDING: 15, Status.REJECTED: 10}
    levels = await shop.client.list_inventory(4)
    assert [(level.on_hand, level.reserved) for level in levels] == [(5, 5)] * 3
    held = [order for order in orders if order.state.status is Status.PENDING]
    assert Counter(order.items[0].warehouse_id for order in held) == dict.fromkeys(PLACES, 5)
    for order in held:
        assert order.reservations[0].warehouse_id == order.items[0].warehouse_id
    assert (await shop.audit.run()).findings == []


async def test_the_last_units_are_sold_once(shop: Shop) -> None:
    orders = await asyncio.gather(*(shop.create_order(1) for _ in range(110)))
    statuses = [order.state.status for order in orders]
    assert (statuses.count(Status.PENDING), statuses.count(Status.REJECTED)) == (100, 10)
    assert await shop.levels() == (100, 100)


async def test_a_warehouse_that_is_away_for_a_while(shop: Shop) -> None:
    """grpc: a quick fault and nothing left behind; queued and auto: accepted, and held when it is back."""
    before = await shop.create_order(1)
    shop.process.kill()
    # Nobody can say which warehouse has enough: that is left open, where the order can wait.
    item = NewItem(1, None, 1, Decimal("19.99"), any_warehouse=True)
    new = NewOrder("u", "Street 1", "card", (item,), "c-1", "test")
    placed, faults = [], 0
    for _ in range(5):
        try:
            placed.append(await shop.saga.create_order(new))
        except StepFault:
            faults += 1
    assert (len(placed), faults) == ((0, 5) if shop.modes.mode is Mode.GRPC else (5, 0))
    await shop.saga.pay(before.id, "test")
    await shop.restart()
    for order in placed:
        assert (await shop.settled(order.id)).state.status is Status.PENDING
    assert (await shop.settled(before.id)).state.stock is Stock.COMMITTED

    async def agrees() -> bool:
        return await shop.levels() == (99, len(placed)) and not (await shop.audit.run()).unfinished

    await until(agrees)
    assert (await shop.audit.run()).findings == []


async def test_calls_are_idempotent_by_request_id(shop: Shop) -> None:
    lines = [StockLine(1, 1, 3)]
    call = Call("r-1", "c-1")
    first, second = await asyncio.gather(*(shop.gateway.reserve("o-1", lines, 60, call) for _ in range(2)))
    assert first == second
    assert not isinstance(first, Refusal)
    other = shop.gateway.reserve("o-1", [StockLine(1, 1, 4)], 60, call)
    with pytest.raises(GatewayFault, match="did not accept"):
        await other
    await shop.gateway.cancel("r-1", "customer", Call("r-2", "c-1"))
    await shop.gateway.cancel("never-seen", "customer", Call("r-3", "c-1"))
    late = await shop.gateway.reserve("o-2", lines, 60, Call("never-seen", "c-1"))
    assert isinstance(late, Refusal)
    assert late.code == "RESERVE_CANCELLED"
    assert await shop.levels() == (100, 0)
