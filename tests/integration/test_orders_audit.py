"""The orders' audit finds what disagrees with the warehouse, and its repair makes it agree."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import pytest

from order_gateway.audit import OrdersAudit, OrdersRepair
from order_gateway.gateway import Call, Done, GatewayFault, Refusal, StockLine
from order_gateway.gateway.holdings import Holding, HoldingState
from order_gateway.intents import Intent
from order_gateway.orders import NewItem, NewOrder, Order, Payment, Reason, Status, Stock, Way
from tests.integration.test_gateway_saga import EXPIRED, Outside, World

pytestmark = pytest.mark.sql
LINE = StockLine(1, 1, 2)


class Books:
    """What the warehouse says it has; commits and releases change it."""

    def __init__(self) -> None:
        self.states: dict[str, HoldingState] = {}

    async def of_order(self, order_id: int) -> Sequence[Holding]:
        name = f"hold-{order_id}"
        return [Holding(name, self.states[name], (LINE,))] if name in self.states else []

    async def release(self, reservation_id: str, call: Call) -> Done | Refusal:
        self.states[reservation_id] = HoldingState.CANCELLED
        return Done()


class Warehouse(Outside):
    """The outside of the saga, on the same books."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()

    async def reserve(self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call) -> object:
        hold = await super().reserve(order_id, lines, ttl_seconds, call)
        self.books.states[f"hold-{order_id}"] = HoldingState.RESERVED
        return hold

    async def commit(self, reservation_id: str, call: Call) -> object:
        answer = await super().commit(reservation_id, call)
        if isinstance(answer, Done):
            self.books.states[reservation_id] = HoldingState.COMMITTED
        return answer

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        return [StockLine(product_id, 7, 100)]

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> object:
        answer = await super().cancel(reserve_request_id, reason, call)
        order_id = reserve_request_id.split("-")[2]
        if self.books.states.get(f"hold-{order_id}") is HoldingState.RESERVED:
            self.books.states[f"hold-{order_id}"] = HoldingState.CANCELLED
        return answer


class Audited:
    def __init__(self, url: str) -> None:
        self.warehouse = Warehouse()
        self.world = World(url, self.warehouse)
        world, books = self.world, self.warehouse.books
        self.audit = OrdersAudit(world.database, world.store, books)  # type: ignore[arg-type]
        self.repair = OrdersRepair(world.database, world.store, world.relay, self.warehouse, books)  # type: ignore[arg-type]

    def state(self, order: Order, state: HoldingState) -> None:
        self.warehouse.books.states[f"hold-{order.id}"] = state

    async def problems(self) -> list[tuple[int, str]]:
        return [(finding.order.id, finding.problem) for finding in (await self.audit.run()).findings]

    async def mend(self) -> None:
        await self.repair.run((await self.audit.run()).findings)
        assert await self.problems() == []


@pytest.fixture
async def audited(orders_database_url: str) -> AsyncIterator[Audited]:
    audited = Audited(orders_database_url)
    yield audited
    await audited.world.close()


async def test_orders_in_every_state_agree(audited: Audited) -> None:
    world = audited.world
    await world.place()
    paid, cancelled, returned = await world.place(), await world.place(), await world.place()
    for order in (paid, returned):
        await world.saga.pay(order.id, "test")
    for order in (cancelled, returned):
        await world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)
    audited.warehouse.script["reserve"] = [GatewayFault("WAREHOUSE_UNAVAILABLE", "away")]
    await world.place(Way.QUEUED)
    report = await audited.audit.run()
    assert (report.checked, report.unfinished, report.findings) == (5, 1, ())


async def test_a_cancelled_order_that_still_holds_is_released(audited: Audited) -> None:
    order = await audited.world.place()
    await audited.world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)
    audited.state(order, HoldingState.RESERVED)
    assert await audited.problems() == [(1, "is cancelled, but 1 reservations are still held")]
    await audited.mend()


async def test_a_cancelled_order_that_was_sold_gives_the_stock_back(audited: Audited) -> None:
    order = await audited.world.place()
    await audited.world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)
    audited.state(order, HoldingState.COMMITTED)
    assert await audited.problems() == [(1, "is cancelled, but sold")]
    await audited.mend()
    assert audited.warehouse.names().count("give_back") == 2
    assert (await audited.world.store.read(order.id)).state.stock is Stock.RETURNED


async def test_a_paid_order_that_was_not_sold_is_sold(audited: Audited) -> None:
    order = await audited.world.place()
    await audited.world.saga.pay(order.id, "test")
    audited.state(order, HoldingState.EXPIRED)
    assert await audited.problems() == [(1, "is paid, but not sold")]
    await audited.mend()
    assert audited.warehouse.books.states["hold-1"] is HoldingState.COMMITTED


async def test_a_paid_order_whose_stock_is_gone_is_refunded(audited: Audited) -> None:
    order = await audited.world.place()
    await audited.world.saga.pay(order.id, "test")
    audited.state(order, HoldingState.EXPIRED)
    audited.warehouse.script["commit"] = [EXPIRED]
    await audited.mend()
    ended = await audited.world.store.read(order.id)
    assert (ended.state.status, ended.state.payment) == (Status.CANCELLED, Payment.REFUNDED)


async def test_a_hold_that_was_lost_cancels_its_order(audited: Audited) -> None:
    order = await audited.world.place()
    audited.state(order, HoldingState.CANCELLED)
    assert await audited.problems() == [(1, "is not held")]
    await audited.mend()
    assert (await audited.world.store.read(order.id)).state.stock is Stock.FREE


async def test_the_repair_waits_for_what_a_running_service_has_taken_over(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await audited.world.place()
    audited.state(order, HoldingState.CANCELLED)
    intents = audited.repair._intents
    claim, are_open = intents.claim, intents.are_open
    taken: list[Intent] = []

    async def claimed_by_another(limit: int, lease_seconds: float) -> list[Intent]:
        taken.extend(await claim(limit, lease_seconds))
        return []

    async def looked_at(order_ids: Sequence[int]) -> bool:
        open_before = await are_open(order_ids)
        while taken:
            await audited.world.relay.do(taken.pop())
        return open_before

    monkeypatch.setattr(intents, "claim", claimed_by_another)
    monkeypatch.setattr(intents, "are_open", looked_at)
    await audited.repair.run((await audited.audit.run()).findings)
    assert not await are_open([order.id])
    assert (await audited.world.store.read(order.id)).state.stock is Stock.FREE


async def test_a_step_that_nobody_is_going_to_do_is_done(audited: Audited) -> None:
    order = await audited.world.place(Way.QUEUED)
    await audited.world.execute("DELETE FROM intents")
    assert await audited.problems() == [(1, "waits for reserve, which nobody is going to do")]
    await audited.mend()
    assert (await audited.world.store.read(order.id)).state.status is Status.PENDING


async def test_orders_that_wait_for_their_warehouse_are_no_finding(audited: Audited) -> None:
    world = audited.world
    items = (NewItem(1, None, 2, Decimal("19.99"), any_warehouse=True),)
    new = NewOrder("u", "Street 1", "card", items, "c-1", "test", Way.QUEUED)
    waiting, cancelled, forgotten = [await world.saga.place(new) for _ in range(3)]
    await world.saga.cancel(cancelled.id, "test", Reason.CUSTOMER, None)
    assert (await audited.audit.run()).findings == ()
    await world.execute(f"DELETE FROM intents WHERE order_id = {forgotten.id}")
    assert await audited.problems() == [(forgotten.id, "waits for reserve, which nobody is going to do")]
    await audited.mend()
    for order in (waiting, forgotten):
        held = await world.store.read(order.id)
        assert (held.state.status, held.items[0].warehouse_id) == (Status.PENDING, 7)
