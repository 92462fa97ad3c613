"""An order's hold is released behind its back: nobody is charged for nothing, and through this service it is told."""

import asyncio

import pytest

from order_gateway.gateway.port import GatewayFault, HoldState
from order_gateway.lifecycle import Illegal, Order, Payment, Reason, Status, Stock
from order_gateway.payments import Bill, Charged, ProviderFault
from order_gateway.saga.steps import StepFault
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.orders_kit import Shop
from tests.kits.warehouse_kit import assert_clean, cancel, commit, make_overdue

pytestmark = pytest.mark.sql


async def release(at: Shop, order: Order) -> None:
    await at.calls.holds.Cancel(cancel(reservation_id=order.reservations[0].reservation_id))


async def expire(at: Shop) -> None:
    await make_overdue(at.warehouse_url)
    # It makes them a day older, too.
    await at.execute("UPDATE orders SET created_at = created_at - INTERVAL 2 DAY")
    await at.calls.holds.SweepExpired(pb.SweepExpiredRequest())


async def ends_without_a_charge(at: Shop, order: Order) -> None:
    ended = (await at.saga.pay(order.id, "test")).order.state
    assert (ended.status, ended.reason, ended.stock) == (Status.CANCELLED, Reason.RESERVATION_EXPIRED, Stock.FREE)
    assert ended.payment is Payment.REFUNDED
    assert at.till.asked == []
    assert at.till.charged == {}
    assert not await at.intents.are_open([order.id])
    assert (await at.audit.run()).findings == []
    await assert_clean(at.warehouse_url)


async def test_a_released_hold_is_not_charged_for(at: Shop) -> None:
    order = await at.create_order()
    await release(at, order)
    await ends_without_a_charge(at, order)


async def test_an_expired_hold_whose_stock_is_gone_is_not_charged_for(at: Shop) -> None:
    order = await at.create_order(60)
    await expire(at)
    await at.calls.hold((1, 1, 60))
    await ends_without_a_charge(at, order)


async def test_a_hold_that_the_warehouse_does_not_know_is_not_charged_for(at: Shop) -> None:
    order = await at.create_order()
    await at.calls.holds.Cancel(cancel(reservation_id=order.reservations[0].reservation_id))
    for table in ("reservations", "reservation_lines", "movements", "outbox", "request_ids"):
        at.in_warehouse(f"DELETE FROM {table}")
    ended = (await at.saga.pay(order.id, "test")).order.state
    assert (ended.status, ended.reason) == (Status.CANCELLED, Reason.RESERVATION_EXPIRED)
    assert at.till.charged == {}


async def test_an_expired_hold_whose_stock_is_there_is_paid_and_sold(at: Shop) -> None:
    order = await at.create_order(60)
    await expire(at)
    assert (await at.saga.pay(order.id, "test")).order.state.stock is Stock.COMMITTED
    assert await at.level() == (40, 0)
    await assert_clean(at.warehouse_url)


async def test_what_was_sold_by_hand_is_paid_and_stays_sold_once(at: Shop) -> None:
    order = await at.create_order()
    await at.calls.holds.Commit(commit(reservation_id=order.reservations[0].reservation_id))
    assert (await at.saga.pay(order.id, "test")).order.state.stock is Stock.COMMITTED
    assert await at.level() == (98, 0)


@pytest.mark.parametrize("how", ["away", "silent"])
async def test_customers_may_pay_while_the_warehouse_is_away(
    at: Shop, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    order = await at.create_order()

    async def no_answer(_id: str, _call: object) -> HoldState:
        if how == "away":
            raise GatewayFault("WAREHOUSE_UNAVAILABLE", "away")
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(at.gateway, "state_of", no_answer)
    monkeypatch.setattr(at.saga._hold_check, "_deadline_seconds", 0.1)
    assert (await at.saga.pay(order.id, "test")).order.state.status is Status.PAID


async def test_a_hold_that_goes_after_the_charge_is_refunded(at: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the charge is lost, the hold is released, the relay asks again: the money does not stay."""
    order = await at.create_order()
    charge = at.till.charge

    async def lost(bill: Bill) -> Charged:
        await charge(bill)
        raise ProviderFault("lost")

    async def unknown(bill: Bill) -> None:
        raise ProviderFault("lost, too")

    monkeypatch.setattr(at.till, "charge", lost)
    monkeypatch.setattr(at.till, "look_up", unknown)
    with pytest.raises(StepFault):
        await at.saga.pay(order.id, "test")
    assert at.till.kept > 0
    monkeypatch.setattr(at.till, "charge", charge)
    await release(at, order)
    await at.relay_all()
    ended = (await at.read(order)).state
    assert (ended.status, ended.payment, ended.stock) == (Status.CANCELLED, Payment.REFUNDED, Stock.FREE)
    assert at.till.kept == 0


async def test_paying_twice_at_once_charges_once(at: Shop) -> None:
    order = await at.create_order()
    both = await asyncio.gather(*(at.saga.pay(order.id, "test") for _ in range(2)))
    assert sorted(isinstance(one.result, Illegal) for one in both) == [False, True]
    assert len(at.till.charged) == 1
