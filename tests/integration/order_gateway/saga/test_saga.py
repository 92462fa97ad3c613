"""Orders on a real database, with a warehouse and a payment provider that fail by script."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace
from sqlalchemy import text, update

from order_gateway.gateway.breaker import BreakerSettings, GuardedGateway
from order_gateway.gateway.modes import Choice, Modes
from order_gateway.gateway.port import Call, Done, GatewayFault, Mode
from order_gateway.lifecycle import (
    Event,
    Illegal,
    NewItem,
    NewOrder,
    Payment,
    Reason,
    Status,
    Step,
    Stock,
    Way,
)
from order_gateway.payments import Declined, ProviderFault
from order_gateway.saga.steps import StepFault
from order_gateway.storage import tables
from order_gateway.storage.applying import Change
from order_gateway.storage.store import Store, StoreSettings
from tests.kits.order_states import REACHABLE
from tests.kits.scripted_orders import AWAY, EXPIRED, SHORT, World

pytestmark = pytest.mark.sql


async def test_the_straight_way(world: World) -> None:
    order = await world.create_order()
    assert order.state.status is Status.PENDING
    assert order.total_amount == Decimal("79.96")
    assert [reservation.is_active for reservation in order.reservations] == [True, True]
    assert order.payment_deadline < order.reservations[0].expires_at
    paid = (await world.saga.pay(order.id, "test")).order
    assert (paid.state.status, paid.state.stock) == (Status.PAID, Stock.COMMITTED)
    assert paid.reservations[0].is_confirmed
    assert await world.open_steps() == []
    assert world.outside.names() == ["reserve", "authorise", "charge", "commit"]


async def test_a_refused_order_is_rejected_and_holds_nothing(world: World) -> None:
    world.outside.script["reserve"] = [SHORT]
    order = await world.create_order()
    assert order.state.status is Status.REJECTED
    assert order.refusal is not None
    assert order.refusal["code"] == "INSUFFICIENT_STOCK"
    assert await world.open_steps() == []


async def test_an_unanswered_reserve_is_fenced(world: World) -> None:
    world.outside.script["reserve"] = [AWAY]
    world.outside.script["cancel"] = [AWAY, AWAY]
    with pytest.raises(StepFault):
        await world.create_order()
    assert await world.open_steps() == ["cancel"]
    await world.relay_all()
    order = await world.store.read(1)
    assert (order.state.status, order.state.reason) == (Status.CANCELLED, Reason.RESERVATION_TIMEOUT)
    assert order.state.stock is Stock.FREE
    reserve_key = world.outside.calls[0][1]
    assert [key for name, key in world.outside.calls if name == "cancel"] == [reserve_key] * 3


async def test_a_process_that_dies_while_reserving(world: World) -> None:
    item = NewItem(1, 1, 1, Decimal("1.00"))
    order = await world.store.create(NewOrder("u", "Street 1", "card", (item,), "c-1", "test"), 5)
    assert await world.intents.claim(10, 30) == []
    await world.relay_all()
    order = await world.store.read(order.id)
    assert order.state.reason is Reason.RESERVATION_TIMEOUT
    assert world.outside.names() == ["cancel"]


async def test_a_queued_order_is_reserved_by_the_relay(world: World) -> None:
    world.outside.script["reserve"] = [AWAY, AWAY]
    order = await world.create_order(Way.QUEUED)
    assert order.state.status is Status.PENDING_RESERVATION
    await world.relay_all()
    assert (await world.store.read(order.id)).state.status is Status.PENDING
    keys = {key for name, key in world.outside.calls if name == "reserve"}
    assert len(keys) == 1


async def test_an_order_keeps_the_time_to_pay_that_it_was_made_with(world: World) -> None:
    """Whichever process asks for its hold: under one request id the warehouse takes one and the same request."""
    other = Store(world.database, StoreSettings(60, 120))
    item = NewItem(1, 1, 2, Decimal("19.99"))
    order = await other.create(NewOrder("u", "Street 1", "card", (item,), "c-1", "test", Way.QUEUED), 0)
    await other.close()
    await world.relay_all()
    [hold] = (await world.store.read(order.id)).reservations
    assert hold.expires_at - hold.created_at == timedelta(seconds=60 + 120)


async def test_a_queued_order_that_stays_stuck_is_cancelled_with_a_fence(world: World) -> None:
    order = await world.create_order(Way.QUEUED)
    await world.execute("UPDATE orders SET created_at = NOW(6) - INTERVAL 1 HOUR")
    world.outside.script = {"reserve": [AWAY] * 20, "cancel": [AWAY]}
    await world.relay_all()
    ended = (await world.store.read(order.id)).state
    assert (ended.status, ended.reason) == (Status.CANCELLED, Reason.RESERVATION_TIMEOUT)
    assert ended.stock is Stock.FREE
    assert world.outside.names() == ["reserve", "cancel", "cancel"]
    assert len({key for _name, key in world.outside.calls}) == 1


@pytest.mark.parametrize("refused_at", ["authorise", "charge"])
async def test_a_declined_payment_releases_the_stock(world: World, refused_at: str) -> None:
    order = await world.create_order()
    world.outside.script[refused_at] = [Declined("no")]
    declined = (await world.saga.pay(order.id, "test")).order
    assert (declined.state.reason, declined.state.stock) == (Reason.PAYMENT_DECLINED, Stock.FREE)
    assert world.outside.names()[-2:] == [refused_at, "cancel"]


async def test_a_lost_answer_of_the_provider_is_asked_for_again_by_key(world: World) -> None:
    order = await world.create_order()
    world.outside.script["charge"] = [ProviderFault("lost")]
    with pytest.raises(StepFault):
        await world.saga.pay(order.id, "test")
    again = await world.saga.pay(order.id, "test")
    assert isinstance(again.result, Illegal)
    assert again.result.code == "PAYMENT_IN_PROGRESS"
    await world.relay_all()
    assert (await world.store.read(order.id)).state.status is Status.PAID
    asked = [(name, key) for name, key in world.outside.calls if name in ("authorise", "charge")]
    assert [name for name, _key in asked] == ["authorise", "charge", "authorise", "charge"]
    assert len({key for _name, key in asked}) == 1


async def test_a_charge_that_never_answers_is_given_up_and_refunded(world: World) -> None:
    order = await world.create_order()
    world.outside.script["charge"] = [ProviderFault("lost")] * 20
    with pytest.raises(StepFault):
        await world.saga.pay(order.id, "test")
    await world.execute("UPDATE orders SET payment_deadline = NOW(6) - INTERVAL 1 HOUR")
    await world.relay_all()
    order = await world.store.read(order.id)
    assert (order.state.status, order.state.reason) == (Status.CANCELLED, Reason.PAYMENT_EXPIRED)
    assert (order.state.stock, order.state.payment) == (Stock.FREE, Payment.REFUNDED)


async def test_a_sale_that_the_warehouse_could_not_hear_of_is_finished_by_the_relay(world: World) -> None:
    order = await world.create_order()
    world.outside.script["commit"] = [AWAY, AWAY]
    paid = (await world.saga.pay(order.id, "test")).order
    assert (paid.state.status, paid.state.stock) == (Status.PAID, Stock.COMMITTING)
    await world.relay_all()
    assert (await world.store.read(order.id)).state.stock is Stock.COMMITTED


async def test_a_late_payment_whose_stock_is_gone_is_refunded(world: World) -> None:
    order = await world.create_order()
    world.outside.script["commit"] = [EXPIRED]
    ended = (await world.saga.pay(order.id, "test")).order
    assert ended.state.reason is Reason.RESERVATION_EXPIRED
    assert (ended.state.stock, ended.state.payment) == (Stock.FREE, Payment.REFUNDED)


async def test_cancelling_a_paid_order_refunds_and_returns(world: World) -> None:
    order = await world.create_order()
    await world.saga.pay(order.id, "test")
    world.outside.script["give_back"] = [Done(), AWAY]
    await world.saga.cancel(order.id, "test", Reason.CUSTOMER, None)
    await world.relay_all()
    order = await world.store.read(order.id)
    assert (order.state.stock, order.state.payment) == (Stock.RETURNED, Payment.REFUNDED)
    returned = [key for name, key in world.outside.calls if name == "give_back"]
    assert len(returned) == 4
    assert len(set(returned)) == 2


async def test_nobody_pays(world: World) -> None:
    order, other = await world.create_order(), await world.create_order()
    await world.pass_deadline(order)
    await world.relay.look()
    await world.relay.stop()
    ended = await world.store.read(order.id)
    assert ended.state.reason is Reason.PAYMENT_EXPIRED
    await world.relay_all()
    assert (await world.store.read(order.id)).state.stock is Stock.FREE
    assert (await world.store.read(other.id)).state.status is Status.PENDING


async def test_paying_after_the_deadline_is_refused_and_frees_the_stock(world: World) -> None:
    order = await world.create_order()
    await world.pass_deadline(order)
    applied = await world.saga.pay(order.id, "test")
    assert isinstance(applied.result, Illegal)
    assert applied.result.code == "PAYMENT_EXPIRED"
    ended = await world.store.read(order.id)
    assert (ended.state.reason, ended.state.stock) == (Reason.PAYMENT_EXPIRED, Stock.FREE)
    assert not {"authorise", "charge"} & set(world.outside.names())


async def test_a_poisoned_step_does_not_stop_the_others(world: World) -> None:
    for _ in range(5):
        await world.create_order(Way.QUEUED)
    world.outside.script["reserve"] = [RuntimeError("poison")]
    await world.relay.look()
    await world.relay.stop()
    assert len(await world.open_steps()) == 1


@pytest.mark.parametrize(
    ("tries_before", "least", "most"), [(0, -5, 0.65), (3, 1, 5.1), (50, 15, 37.6)], ids=["first", "fourth", "last"]
)
async def test_a_step_that_keeps_failing_waits_longer_up_to_a_bound(
    world: World, tries_before: int, least: float, most: float
) -> None:
    """0.5 s at first, twice as long each time, 30 s at most, give or take a quarter; less what the look itself took."""
    await world.create_order(Way.QUEUED)
    await world.execute(f"UPDATE intents SET attempts = {tries_before}")
    world.outside.script["reserve"] = [AWAY]
    [intent] = await world.intents.claim(1, 30)
    assert intent.attempts == tries_before + 1
    await world.relay.do(intent)
    async with world.database.engine.connect() as connection:
        query = text("SELECT TIMESTAMPDIFF(MICROSECOND, SYSDATE(6), due_at) / 1e6, last_error FROM intents")
        wait, error = (await connection.execute(query)).one()
    assert least <= wait <= most
    assert "away" in error


async def test_a_hold_that_came_after_its_refusal_is_given_back(world: World) -> None:
    order = await world.create_order(Way.QUEUED)
    refused = await world.store.apply(order.id, Change(Event.RESERVE_REFUSED, note="the one who did it first"))
    assert refused.order.state.status is Status.REJECTED
    late = await world.saga.conclude(order, Step.RESERVE)
    assert (late.order.state.status, late.order.state.stock) == (Status.REJECTED, Stock.RELEASING)
    assert await world.open_steps() == ["cancel"]
    await world.relay_all()
    assert world.outside.names() == ["reserve", "cancel"]
    assert (await world.store.read(order.id)).state.stock is Stock.FREE


async def test_two_relays_take_different_steps(world: World) -> None:
    for _ in range(6):
        await world.create_order(Way.QUEUED)
    first, second = await world.intents.claim(3, 30), await world.intents.claim(10, 30)
    assert len(first) == len(second) == 3
    assert not {intent.order_id for intent in first} & {intent.order_id for intent in second}
    assert all(intent.step is Step.RESERVE for intent in first)


async def test_one_order_that_can_not_be_written_does_not_spoil_the_others(world: World) -> None:
    item = NewItem(1, 1, 1, Decimal("1.00"))
    good = NewOrder("u", "Street 1", "card", (item,), "c-1", "test")
    bad = replace(good, user_id="u" * 100)
    made = await asyncio.gather(
        *(world.store.create(new, 5) for new in (good, bad, good, good)), return_exceptions=True
    )
    assert [isinstance(one, Exception) for one in made] == [False, True, False, False]
    assert len({one.id for one in made if not isinstance(one, BaseException)}) == 3


async def test_changes_of_one_order_at_the_same_time_see_each_other(world: World) -> None:
    order = await world.create_order()
    wishes = [world.saga.cancel(order.id, "test", Reason.CUSTOMER, None), world.saga.pay(order.id, "test")]
    cancelled, paid = await asyncio.gather(*wishes)
    assert not isinstance(cancelled.result, Illegal)
    assert isinstance(paid.result, Illegal)
    assert not {"authorise", "charge"} & set(world.outside.names())


async def test_an_order_that_is_deferred_keeps_its_request_id(world: World) -> None:
    world.outside.script["reserve"] = [AWAY]
    world.saga._choose = lambda: Choice(Way.GRPC, may_defer=True)
    order = await world.create_order()
    assert (order.state.status, order.way) == (Status.PENDING_RESERVATION, Way.QUEUED)
    await world.relay_all()
    assert (await world.store.read(order.id)).state.status is Status.PENDING
    keys = [key for name, key in world.outside.calls if name == "reserve"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_a_switch_holds_until_the_configuration_changes(world: World) -> None:
    gateway = GuardedGateway(world.outside, BreakerSettings(failures_max=1))
    modes = Modes(world.database, gateway, Mode.AUTO, 1)
    await modes.load()
    assert (modes.status().why, modes.choose()) == (
        "configured; the warehouse answers",
        Choice(Way.GRPC, may_defer=True),
    )
    world.outside.script["commit"] = [AWAY]
    with pytest.raises(GatewayFault):
        await gateway.commit("r-1", Call("k", "c"))
    assert (gateway.state, modes.choose()) == ("open", Choice(Way.QUEUED))
    with pytest.raises(GatewayFault):
        await gateway.commit("r-1", Call("k", "c"))
    assert world.outside.names() == ["commit"]
    await modes.switch(Mode.GRPC, "ann")
    with pytest.raises(GatewayFault):
        modes.choose()
    other, changed = (Modes(world.database, gateway, mode, 1) for mode in (Mode.AUTO, Mode.QUEUED))
    await other.load()
    await changed.load()
    assert (other.status().why, other.mode, changed.mode) == ("switched by ann", Mode.GRPC, Mode.QUEUED)


async def test_the_database_takes_every_state_there_is(world: World) -> None:
    order = await world.create_order()
    async with world.database.engine.begin() as connection:
        for state in REACHABLE:
            await connection.execute(
                update(tables.orders)
                .where(tables.orders.c.id == order.id)
                .values(status=state.status, stock=state.stock, payment=state.payment, reason=state.reason)
            )


async def test_hot_queries_use_their_indexes(world: World) -> None:
    due = "SELECT order_id, step FROM intents WHERE due_at <= NOW(6) ORDER BY due_at LIMIT 5"
    unpaid = (
        "SELECT id FROM orders WHERE status = 'pending' AND payment = 'none' AND payment_deadline <= NOW(6) "
        "ORDER BY payment_deadline LIMIT 5"
    )
    since = "SELECT id FROM orders WHERE created_at >= NOW(6) - INTERVAL 1 MINUTE LIMIT 100"
    async with world.database.engine.connect() as connection:
        for statement, index in ((due, "intents_due"), (unpaid, "orders_unpaid"), (since, "orders_age")):
            rows = (await connection.execute(text(f"EXPLAIN FORMAT=TRADITIONAL {statement}"))).mappings().all()
            assert [row["key"] for row in rows] == [index]
