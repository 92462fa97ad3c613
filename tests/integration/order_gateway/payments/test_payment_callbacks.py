"""News of a payment: each message counts once, makes the order's payment due, and is not lost on whoever is at work."""

import pytest

from order_gateway.lifecycle import Order, Payment, Status, Step
from order_gateway.payments import Pending, ProviderFault, Refunded
from order_gateway.payments.callbacks import Callbacks
from order_gateway.saga.steps import PaymentAwaited
from tests.kits.scripted_orders import World
from tests.kits.warehouse_kit import sql

pytestmark = pytest.mark.sql


async def awaiting(world: World) -> Order:
    """An order whose payment the provider does not know the outcome of."""
    order = await world.create_order()
    world.outside.script["authorise"] = [Pending()]
    with pytest.raises(PaymentAwaited):
        await world.saga.pay(order.id, "test", "card", "tok_1")
    waiting = await world.store.read(order.id)
    assert (waiting.state.status, waiting.state.payment) == (Status.PENDING, Payment.CHARGING)
    return waiting


async def test_news_make_the_payment_due_at_once(world: World) -> None:
    order, other = await awaiting(world), await awaiting(world)
    callbacks = Callbacks(world.database, 300)
    assert await world.intents.claim(10, 30) == []
    assert await callbacks.take("m-1", order.id)
    [intent] = await world.intents.claim(10, 30)
    assert (intent.order_id, intent.step) == (order.id, Step.CHARGE)
    await world.relay.do(intent)
    assert (await world.store.read(order.id)).state.status is Status.PAID
    assert not await callbacks.take("m-1", other.id)
    assert await world.intents.claim(10, 30) == []


async def test_news_that_come_while_the_payment_is_looked_at_are_not_lost(world: World) -> None:
    order = await awaiting(world)
    callbacks = Callbacks(world.database, 300)
    await callbacks.take("m-1", order.id)
    [intent] = await world.intents.claim(10, 30)

    # The provider has not known yet; its news come before its answer.
    async def authorise(_bill: object) -> Pending:
        await callbacks.take("m-2", order.id)
        return Pending()

    settled = world.outside.authorise
    world.outside.authorise = authorise  # type: ignore[method-assign, assignment]
    await world.relay.do(intent)
    world.outside.authorise = settled  # type: ignore[method-assign]
    [again] = await world.intents.claim(10, 30)
    await world.relay.do(again)
    assert (await world.store.read(order.id)).state.status is Status.PAID


async def test_a_step_without_news_waits_for_its_time(world: World) -> None:
    order = await awaiting(world)
    await Callbacks(world.database, 300).take("m-1", order.id)
    [intent] = await world.intents.claim(10, 30)
    world.outside.script["authorise"] = [Pending()]
    await world.intents.postpone(intent, 60, "not yet")
    assert await world.intents.claim(10, 30) == []


async def test_news_of_orders_that_wait_for_nothing_do_no_harm(world: World) -> None:
    order = await world.create_order()
    callbacks = Callbacks(world.database, 300)
    for number, order_id in enumerate((order.id, 99, None)):
        assert await callbacks.take(f"m-{number}", order_id)
    assert await world.open_steps() == []
    assert (await world.store.read(order.id)).version == order.version


async def test_a_refund_that_takes_its_time(world: World) -> None:
    order = await awaiting(world)
    world.outside.script["authorise"] = [ProviderFault("lost")] * 20
    world.outside.script["refund"] = [Pending(), Refunded()]
    await world.execute("UPDATE orders SET payment_deadline = NOW(6) - INTERVAL 1 HOUR")
    await world.execute("UPDATE intents SET due_at = NOW(6)")
    for intent in await world.intents.claim(10, 30):
        await world.relay.do(intent)
    given_up = await world.store.read(order.id)
    assert (given_up.state.status, given_up.state.payment) == (Status.CANCELLED, Payment.REFUNDING)
    await Callbacks(world.database, 300).take("m-1", order.id)
    for intent in await world.intents.claim(10, 30):
        await world.relay.do(intent)
    assert (await world.store.read(order.id)).state.payment is Payment.REFUNDED


async def test_messages_are_forgotten_when_they_are_too_old_to_come_again(
    world: World, orders_database_url: str
) -> None:
    callbacks = Callbacks(world.database, 300)
    for number in range(3):
        await callbacks.take(f"m-{number}", None)
    old = "UPDATE payment_callbacks SET received_at = NOW(6) - INTERVAL 1201 SECOND WHERE message_id <> 'm-2'"
    await world.execute(old)
    await callbacks.take("m-3", None)
    rows = sql(orders_database_url, "SELECT message_id FROM payment_callbacks ORDER BY message_id")
    assert [row[0] for row in rows] == ["m-2", "m-3"]
