"""The warehouses of an order that are ours to choose: when they are chosen, written down, sent, and chosen again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from order_gateway.gateway.modes import Choice
from order_gateway.gateway.port import Call, Hold, Refusal, StockLine
from order_gateway.http.views import order_view
from order_gateway.lifecycle import (
    NewItem,
    NewOrder,
    Order,
    Reason,
    Status,
    Step,
    Stock,
    Way,
)
from order_gateway.saga.reserving import ReserveStep
from order_gateway.saga.steps import StepFault
from order_gateway.storage.reading import Listing
from tests.kits.scripted_orders import AWAY, Outside, World

pytestmark = pytest.mark.sql
KEY = Call("key", "c-1", deadline_seconds=1)


def short(warehouse_id: int, available: int = 0) -> Refusal:
    detail = {"product_id": 1, "warehouse_id": warehouse_id, "requested": 2, "available": available}
    return Refusal("INSUFFICIENT_STOCK", "not enough stock", (detail,))


class Shelves(Outside):
    """Product 1 in three warehouses; says what it was asked for, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.free = {1: 5, 2: 5, 3: 5}
        self.sent: list[tuple[int, ...]] = []
        self.actors: list[str] = []
        self.returned: list[int] = []

    async def reserve(self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call) -> Any:
        self.sent.append(tuple(line.warehouse_id for line in lines))
        self.actors.append(call.actor)
        return await super().reserve(order_id, lines, ttl_seconds, call)

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        levels = [StockLine(product_id, warehouse_id, units) for warehouse_id, units in self.free.items()]
        return self.happens("look", call.request_id, levels)  # type: ignore[no-any-return]

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Any:
        self.actors.append(call.actor)
        return await super().cancel(reserve_request_id, reason, call)

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Any:
        self.actors.append(call.actor)
        self.returned.append(line.warehouse_id)
        return await super().give_back(line, reference, call)


class Shop(World):
    """Orders before these shelves."""

    def __init__(self, url: str) -> None:
        self.shelves = Shelves()
        super().__init__(url, self.shelves)
        self.listing = Listing(self.database, 100)

    async def order(self, *warehouse_ids: int | None, way: Way = Way.GRPC, ours: bool = True) -> Order:
        """Create an order with a line of two units for each of `warehouse_ids`; None: not chosen yet."""
        items = tuple(NewItem(1, warehouse_id, 2, Decimal("19.99"), ours) for warehouse_id in warehouse_ids)
        return await self.saga.create_order(NewOrder("u", "Street 1", "card", items, "c-1", "ann", way))

    async def events(self, order_id: int) -> list[tuple[str, str | None]]:
        return [(one.event, one.note) for one in await self.listing.history(order_id, 0, 100)]


def warehouses_of(order: Order) -> list[int | None]:
    return [item.warehouse_id for item in order.items]


@pytest.fixture
async def shop(orders_database_url: str) -> AsyncIterator[Shop]:
    shop = Shop(orders_database_url)
    yield shop
    await shop.close()


@pytest.mark.parametrize("way", list(Way))
async def test_what_ran_out_comes_from_another_warehouse(shop: Shop, way: Way) -> None:
    shop.shelves.script["reserve"] = [short(1)]
    order = await shop.order(1, way=way)
    await shop.relay_all()
    held = await shop.store.read(order.id)
    assert (held.state.status, warehouses_of(held), held.warehouse_changes) == (Status.PENDING, [2], 1)
    assert [one.warehouse_id for one in held.reservations] == [2]
    assert shop.shelves.sent == [(1,), (2,)]
    assert len({key for name, key in shop.shelves.calls if name == "reserve"}) == 1
    assert await shop.events(order.id) == [
        ("created", None),
        ("warehouse_chosen", "product 1: warehouse 2"),
        ("reserved", None),
    ]
    assert await shop.open_steps() == []


async def test_a_warehouse_that_was_named_is_not_left(shop: Shop) -> None:
    shop.shelves.script["reserve"] = [short(1)]
    order = await shop.order(1, ours=False)
    assert (order.state.status, warehouses_of(order)) == (Status.REJECTED, [1])
    assert shop.shelves.names() == ["reserve"]


async def test_the_refusal_counts_if_no_other_has_enough(shop: Shop) -> None:
    shop.shelves.free = {1: 9, 2: 1, 3: 0}
    shop.shelves.script["reserve"] = [short(1, 1)]
    order = await shop.order(1)
    assert (order.state.status, warehouses_of(order)) == (Status.REJECTED, [1])
    assert order.refusal is not None
    assert order.refusal["details"] == [{"product_id": 1, "warehouse_id": 1, "requested": 2, "available": 1}]


async def test_an_order_is_not_sent_round_for_ever(shop: Shop) -> None:
    shop.shelves.script["reserve"] = [short(1), short(2), short(1), short(2), short(1)]
    order = await shop.order(1)
    assert shop.shelves.sent == [(1,), (2,), (1,), (2,)]
    assert (order.state.status, order.warehouse_changes) == (Status.REJECTED, 3)


async def test_after_a_lost_answer_the_choice_stays(shop: Shop) -> None:
    shop.shelves.script["reserve"] = [AWAY, AWAY]
    order = await shop.order(1, way=Way.QUEUED)
    await shop.relay_all()
    assert shop.shelves.names() == ["reserve"] * 3
    assert shop.shelves.sent == [(1,)] * 3
    assert warehouses_of(await shop.store.read(order.id)) == [1]


async def test_a_choice_is_written_before_it_is_sent(shop: Shop) -> None:
    """Whoever takes over sends what may have been sent already."""
    shop.shelves.script["reserve"] = [short(1), AWAY]
    order = await shop.order(1, way=Way.QUEUED)
    [intent] = await shop.intents.claim(1, 30)
    await shop.relay.do(intent)
    waiting = await shop.store.read(order.id)
    assert (waiting.state.status, warehouses_of(waiting)) == (Status.PENDING_RESERVATION, [2])
    shop.shelves.free[1] = 100
    await shop.relay_all()
    assert shop.shelves.sent == [(1,), (2,), (2,)]
    assert (await shop.store.read(order.id)).state.status is Status.PENDING


async def test_by_the_queue_the_relay_chooses(shop: Shop) -> None:
    shop.shelves.script["look"] = [AWAY]
    order = await shop.order(None, 3, None, way=Way.QUEUED)
    [intent] = await shop.intents.claim(1, 30)
    await shop.relay.do(intent)
    waiting = await shop.store.read(order.id)
    assert warehouses_of(waiting) == warehouses_of(order) == [None, 3, None]
    assert [item.warehouse_id for item in order_view(waiting).items] == [None, 3, None]
    await shop.relay_all()
    held = await shop.store.read(order.id)
    assert (held.state.status, warehouses_of(held), held.warehouse_changes) == (Status.PENDING, [1, 3, 1], 0)


async def test_no_warehouse_has_enough_when_the_relay_looks(shop: Shop) -> None:
    shop.shelves.free = {1: 1, 2: 0}
    order = await shop.order(None, way=Way.QUEUED)
    await shop.relay_all()
    rejected = await shop.store.read(order.id)
    assert (rejected.state.status, warehouses_of(rejected)) == (Status.REJECTED, [None])
    assert rejected.refusal is not None
    assert rejected.refusal["details"] == [{"product_id": 1, "warehouse_id": 1, "requested": 2, "available": 1}]
    assert shop.shelves.sent == []


async def test_a_look_that_fails_while_the_customer_waits(shop: Shop) -> None:
    shop.shelves.script = {"reserve": [short(1)], "look": [AWAY]}
    with pytest.raises(StepFault):
        await shop.order(1)
    await shop.relay_all()
    order = await shop.store.read(1)
    assert (order.state.reason, order.state.stock) == (Reason.RESERVATION_TIMEOUT, Stock.FREE)


@pytest.mark.parametrize(("warehouse_id", "calls"), [(1, ["reserve", "look"]), (None, [])])
async def test_a_look_that_fails_does_not_end_an_order_that_may_be_deferred(
    shop: Shop, warehouse_id: int | None, calls: list[str]
) -> None:
    """Without a choice the look has just failed before the order was made: the customer waits for no other."""
    shop.saga._choose = lambda: Choice(Way.GRPC, may_defer=True)
    shop.shelves.script = {"reserve": [short(1)], "look": [AWAY]}
    order = await shop.order(warehouse_id)
    assert (order.state.status, order.way, warehouses_of(order)) == (
        Status.PENDING_RESERVATION,
        Way.QUEUED,
        [warehouse_id],
    )
    assert shop.shelves.names() == calls
    await shop.relay_all()
    assert (await shop.store.read(order.id)).state.status is Status.PENDING


async def test_an_order_that_is_cancelled_meanwhile_is_not_sent_again(shop: Shop) -> None:
    order = await shop.order(None, way=Way.QUEUED)
    before = shop.shelves.available

    async def cancelled_first(product_id: int, call: Call) -> Sequence[StockLine]:
        await shop.saga.cancel(order.id, "bob", Reason.CUSTOMER, None)
        return await before(product_id, call)

    shop.shelves.available = cancelled_first  # type: ignore[method-assign]
    await shop.relay_all()
    ended = await shop.store.read(order.id)
    assert (ended.state.status, ended.state.stock, warehouses_of(ended)) == (Status.CANCELLED, Stock.FREE, [None])
    assert shop.shelves.names() == ["cancel", "look"]
    assert shop.shelves.actors == ["bob"]


@pytest.mark.parametrize("late", [short(1), short(1, 1)], ids=["another choice", "a refusal"])
async def test_who_comes_late_goes_on_with_the_choice_of_who_was_first(shop: Shop, late: Refusal) -> None:
    """Two processes do the same step, because the first one's time was over; the second sees an outdated order."""
    order = await shop.order(1, way=Way.QUEUED)
    step = ReserveStep(shop.store, shop.shelves, 120, 3)
    shop.shelves.script["reserve"] = [short(1), AWAY, late]
    with pytest.raises(type(AWAY)):
        await step.conclude(order, KEY)
    shop.shelves.free = {1: 9, 2: 1, 3: 5} if late == short(1) else {1: 9, 2: 1, 3: 1}
    applied = await step.conclude(order, KEY)
    assert shop.shelves.sent == [(1,), (2,), (1,), (2,)]
    assert (applied.order.state.status, warehouses_of(applied.order)) == (Status.PENDING, [2])


async def test_what_is_held_is_what_the_order_says(shop: Shop) -> None:
    """The answer to the first choice comes in after somebody else has written the second."""
    order = await shop.order(1, way=Way.QUEUED)
    step = ReserveStep(shop.store, shop.shelves, 120, 3)
    asked, answer = asyncio.Event(), asyncio.Event()
    first = shop.shelves.reserve

    async def late(order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call) -> Hold:
        hold = await first(order_id, lines, ttl_seconds, call)
        asked.set()
        await answer.wait()
        return hold  # type: ignore[no-any-return]

    shop.shelves.reserve = late  # type: ignore[method-assign]
    slow = asyncio.create_task(step.conclude(order, KEY))
    await asked.wait()
    shop.shelves.reserve = first  # type: ignore[method-assign]
    shop.shelves.script["reserve"] = [short(1), AWAY]
    with pytest.raises(type(AWAY)):
        await step.conclude(order, KEY)
    assert warehouses_of(await shop.store.read(order.id)) == [2]
    answer.set()
    held = (await slow).order
    assert (held.state.status, warehouses_of(held)) == (Status.PENDING, [1])
    assert warehouses_of(await shop.store.read(order.id)) == [1]


async def test_sold_units_go_back_to_where_they_came_from(shop: Shop) -> None:
    shop.shelves.script["reserve"] = [short(1)]
    order = await shop.order(1, None)
    await shop.saga.pay(order.id, "bob")
    returned = (await shop.saga.cancel(order.id, "eve", Reason.CUSTOMER, None)).order
    assert returned.state.stock is Stock.RETURNED
    assert shop.shelves.returned == warehouses_of(returned) == [2, 2]
    assert shop.shelves.actors == ["ann", "ann", "eve", "eve"]


async def test_nothing_goes_back_of_a_line_that_was_never_asked_for(shop: Shop) -> None:
    order = await shop.order(None, 3, way=Way.QUEUED)
    await shop.execute("UPDATE orders SET status = 'cancelled', stock = 'returning', reason = 'admin'")
    applied = await shop.saga.conclude(await shop.store.read(order.id), Step.GIVE_BACK)
    assert (applied.order.state.stock, shop.shelves.returned) == (Stock.RETURNED, [3])


async def test_the_relay_acts_for_who_placed_the_order(shop: Shop) -> None:
    await shop.order(1, way=Way.QUEUED)
    order = await shop.order(1, way=Way.QUEUED)
    await shop.relay_all()
    await shop.pass_deadline(order)
    await shop.saga.expire(order.id)
    await shop.relay_all()
    assert shop.shelves.actors == ["ann", "ann", "ann"]
