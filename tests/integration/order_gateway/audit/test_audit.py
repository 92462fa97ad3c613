"""The orders' audit finds what disagrees with the warehouse, and its repair makes it agree: on a real warehouse."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from development.free_ports import free_port
from order_gateway.audit.agreement import Mending, Problem
from order_gateway.audit.checking import Finding, OrdersAudit
from order_gateway.gateway.grpc.adapter import GrpcGateway
from order_gateway.lifecycle import Payment, Reason, Status, Step, Stock, Way
from order_gateway.saga.pending_steps import PendingStep
from stockwarden_client import ClientSettings, WarehouseClient
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.orders_kit import Shop
from tests.kits.warehouse_kit import assert_clean, cancel, commit, make_overdue

pytestmark = pytest.mark.sql


async def mended(at: Shop, *expected: tuple[int, Problem]) -> None:
    """The audit finds `expected`, and nothing after its repair; the warehouse's own books are right, too."""
    assert await at.problems() == list(expected)
    await at.mend()
    assert await at.problems() == []
    await assert_clean(at.warehouse_url)


async def findings(at: Shop) -> list[Finding]:
    return (await at.audit.run()).findings


async def test_orders_in_every_state_agree(at: Shop) -> None:
    for make in (at.create_order, at.paid, at.cancelled, at.returned):
        await make()
    waiting = await at.create_order(way=Way.QUEUED)
    report = await at.audit.run()
    assert (report.checked, report.unfinished, report.findings) == (5, 1, [])
    [named] = report.unfinished_rows
    assert (named.id, named.open_steps) == (waiting.id, frozenset({Step.RESERVE}))


async def test_a_strangers_hold_for_the_same_number_harms_no_order(at: Shop) -> None:
    """A direct hold for the number of a sound order, sold: neither audit nor repair may count it as the order's."""
    pending, paid = await at.create_order(), await at.paid()
    for order in (pending, paid):
        for keep in (False, True):
            stranger = await at.calls.hold((1, 1, 1), order_id=str(order.id))
            if not keep:
                await at.calls.holds.Commit(commit(reservation_id=stranger.reservation_id))
    await at.calls.hold((1, 1, 3), order_id="1-not-ours")
    assert await at.problems() == []
    before = at.in_warehouse("SELECT reservation_id, state FROM reservations ORDER BY 1")
    await at.mend()
    assert at.in_warehouse("SELECT reservation_id, state FROM reservations ORDER BY 1") == before
    assert (await at.read(pending)).state.status is Status.PENDING
    assert (await at.saga.cancel(pending.id, "test", Reason.CUSTOMER, None)).order.state.stock is Stock.FREE
    states = at.in_warehouse("SELECT state, COUNT(*) FROM reservations GROUP BY state ORDER BY state")
    assert states == [("CANCELLED", 1), ("COMMITTED", 3), ("RESERVED", 3)]


async def test_a_strangers_tombstone_for_the_number_stops_no_order(at: Shop) -> None:
    await at.calls.holds.Cancel(cancel(order_id="1"))
    order = await at.create_order()
    assert (order.id, order.state.status) == (1, Status.PENDING)
    assert await at.problems() == []


async def test_a_cancelled_order_that_still_holds_is_released(at: Shop) -> None:
    order = await at.create_order()
    await at.execute("UPDATE orders SET status = 'cancelled', stock = 'free', reason = 'customer'")
    await mended(at, (order.id, Problem.STILL_HELD))
    assert await at.level() == (100, 0)


async def test_a_cancelled_order_that_was_sold_gives_the_stock_back_once(at: Shop) -> None:
    order = await at.paid()
    await at.execute(
        "UPDATE orders SET status = 'cancelled', stock = 'free', payment = 'refunded', reason = 'customer'"
    )
    await mended(at, (order.id, Problem.SOLD_BUT_ENDED))
    assert (await at.read(order)).state.stock is Stock.RETURNED
    assert await at.level() == (100, 0)


async def test_a_paid_order_that_was_not_sold_is_sold(at: Shop) -> None:
    order = await at.create_order()
    await at.execute(
        "UPDATE orders SET status = 'paid', stock = 'committed', payment = 'charged',"
        " created_at = created_at - INTERVAL 2 DAY"
    )
    await make_overdue(at.warehouse_url)
    await at.calls.holds.SweepExpired(pb.SweepExpiredRequest())
    await mended(at, (order.id, Problem.NOT_SOLD))
    assert await at.level() == (98, 0)


async def test_a_paid_order_whose_stock_is_gone_is_refunded(at: Shop) -> None:
    order = await at.create_order()
    await at.saga.pay(order.id, "test")
    [hold] = await at.holds_of(order)
    # By hand: its sale is undone, and what it had is sold to somebody else.
    at.in_warehouse("UPDATE reservations SET state = 'CANCELLED'")
    [finding] = await findings(at)
    assert (finding.problem, finding.mending) == (Problem.NOT_SOLD, Mending.SELL)
    await at.mend()
    ended = await at.read(order)
    assert (ended.state.status, ended.state.payment) == (Status.CANCELLED, Payment.REFUNDED)
    assert at.till.kept == 0
    assert hold.order_id == (await at.store.name(order)).in_warehouse


async def test_a_hold_that_was_lost_cancels_its_order(at: Shop) -> None:
    order = await at.create_order()
    [hold] = await at.holds_of(order)
    await at.calls.holds.Cancel(cancel(reservation_id=hold.reservation_id))
    await mended(at, (order.id, Problem.NOT_HELD))
    assert (await at.read(order)).state.stock is Stock.FREE


async def test_what_was_sold_past_this_service_is_left_to_a_person(at: Shop) -> None:
    order = await at.create_order()
    [hold] = await at.holds_of(order)
    await at.calls.holds.Commit(commit(reservation_id=hold.reservation_id))
    [finding] = await findings(at)
    assert (finding.problem, finding.mending) == (Problem.SOLD_BUT_UNPAID, Mending.NOTHING)
    await at.mend()
    assert (await at.read(order)).state.status is Status.PENDING
    assert (await at.saga.pay(order.id, "test")).order.state.stock is Stock.COMMITTED
    assert await at.problems() == []


async def test_the_repair_waits_for_what_a_running_service_has_taken_over(
    at: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await at.create_order()
    [hold] = await at.holds_of(order)
    await at.calls.holds.Cancel(cancel(reservation_id=hold.reservation_id))
    repair = at.core.repair()
    intents = repair._intents
    claim, are_open = intents.claim, intents.are_open
    taken: list[PendingStep] = []

    async def claimed_by_another(limit: int, lease_seconds: float) -> list[PendingStep]:
        taken.extend(await claim(limit, lease_seconds))
        return []

    async def looked_at(order_ids: Sequence[int]) -> bool:
        open_before = await are_open(order_ids)
        while taken:
            await at.relay.do(taken.pop())
        return open_before

    monkeypatch.setattr(intents, "claim", claimed_by_another)
    monkeypatch.setattr(intents, "are_open", looked_at)
    await repair.run(await findings(at))
    assert not await are_open([order.id])
    assert (await at.read(order)).state.stock is Stock.FREE


async def test_a_step_that_nobody_is_going_to_do_is_done(at: Shop) -> None:
    order = await at.create_order(way=Way.QUEUED)
    undecided = await at.create_order(way=Way.QUEUED, warehouse_id=None, any_warehouse=True)
    assert await at.problems() == []
    await at.execute("DELETE FROM intents")
    await mended(at, (order.id, Problem.FORGOTTEN_STEP), (undecided.id, Problem.FORGOTTEN_STEP))
    assert (await at.read(order)).state.status is Status.PENDING
    assert (await at.read(undecided)).items[0].warehouse_id == 1


async def test_a_hold_that_is_older_than_its_order_is_nobodys(at: Shop) -> None:
    """As before orders had keys of their own: the number of a lost order was given out again, and with it its hold."""
    lost = await at.create_order()
    await at.execute("UPDATE orders SET request_key = '', created_at = created_at - INTERVAL 1 HOUR")
    order_id = await at.key(await at.read(lost), Step.RESERVE)
    at.in_warehouse(f"UPDATE request_ids SET request_id = '{order_id}' WHERE request_id LIKE '%-reserve'")
    assert await at.problems() == []
    await at.execute("UPDATE orders SET created_at = created_at + INTERVAL 2 HOUR")
    [finding] = await findings(at)
    assert (finding.problem, finding.mending) == (Problem.OLDER_HOLD, Mending.NOTHING)
    await at.mend()
    assert await at.level() == (100, 2)


async def test_a_payment_that_is_older_than_its_order_is_found(at: Shop) -> None:
    order = await at.paid()
    await at.execute("UPDATE payments SET created_at = created_at - INTERVAL 1 HOUR")
    assert await at.problems() == [(order.id, Problem.OLDER_PAYMENT)]


async def test_a_hold_that_an_order_did_not_ask_for_is_not_its_own(at: Shop) -> None:
    order = await at.create_order()
    stranger = await at.calls.hold((1, 1, 2), order_id="stranger")
    await at.execute(f"UPDATE reservations SET reservation_id = '{stranger.reservation_id}'")
    [finding] = await findings(at)
    assert (finding.row.id, finding.problem) == (order.id, Problem.STRANGE_HOLD)
    await at.mend()
    assert await at.level() == (100, 4)


async def test_units_that_were_not_put_back_are_found_and_put_back(at: Shop) -> None:
    order = await at.returned()
    assert await at.problems() == []
    key = await at.key(order, Step.GIVE_BACK)
    at.in_warehouse(f"DELETE FROM request_ids WHERE request_id LIKE '{key}%'")
    assert await at.problems() == [(order.id, Problem.NOT_RETURNED)]
    await at.mend()
    assert await at.problems() == []
    assert (await at.read(order)).state.stock is Stock.RETURNED


async def test_only_orders_since_an_instant(at: Shop) -> None:
    old, new = await at.create_order(), await at.create_order()
    for order in (old, new):
        [hold] = await at.holds_of(order)
        await at.calls.holds.Cancel(cancel(reservation_id=hold.reservation_id))
    await at.execute(f"UPDATE orders SET created_at = created_at - INTERVAL 1 DAY WHERE id = {old.id}")
    report = await at.audit.run(datetime.now(UTC) - timedelta(hours=1))
    assert (report.checked, [finding.row.id for finding in report.findings]) == (1, [new.id])
    assert (await at.audit.run(datetime.now(UTC) + timedelta(hours=1))).checked == 0


async def test_more_findings_than_are_kept_are_counted(at: Shop) -> None:
    orders = [await at.create_order() for _ in range(5)]
    for order in orders:
        [hold] = await at.holds_of(order)
        await at.calls.holds.Cancel(cancel(reservation_id=hold.reservation_id))
    at.settings.audit = at.settings.audit.model_copy(update={"findings_max": 2, "page_size": 2})
    report = await at.audit.run()
    assert (report.checked, report.found, [finding.row.id for finding in report.findings]) == (5, 5, [1, 2])


async def test_the_audit_is_right_while_orders_are_made_and_changed(at: Shop) -> None:
    """What is under way is no finding, and neither is what changes between two looks."""
    at.settings.audit = at.settings.audit.model_copy(update={"page_size": 7})
    done = asyncio.Event()

    async def customer() -> None:
        while not done.is_set():
            order = await at.create_order(1)
            await at.saga.pay(order.id, "test")
            await at.saga.cancel(order.id, "test", Reason.CUSTOMER, None)

    customers = [asyncio.create_task(customer()) for _ in range(8)]
    try:
        for _ in range(15):
            assert await findings(at) == []
    finally:
        done.set()
        await asyncio.gather(*customers)
    assert await at.problems() == []
    assert await at.level() == (100, 0)


async def test_without_the_warehouse_it_says_what_it_could_not_check(at: Shop) -> None:
    forgotten = await at.create_order(way=Way.QUEUED)
    for _ in range(3):
        await at.create_order()
    await at.execute("DELETE FROM intents")
    nobody = ClientSettings(target=f"127.0.0.1:{free_port()}", deadline_seconds=0.5, attempt_timeout_seconds=0.5)
    async with WarehouseClient(nobody) as client:
        settings = at.settings.audit.model_copy(update={"page_size": 2})
        report = await OrdersAudit(at.database, at.store, GrpcGateway(client), settings).run()
    assert (report.checked, report.unasked) == (4, 4)
    assert "away" in report.why_unasked
    assert [(finding.row.id, finding.problem) for finding in report.findings] == [
        (forgotten.id, Problem.FORGOTTEN_STEP)
    ]


async def test_many_orders_are_compared_by_one_call(at: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = await asyncio.gather(*(at.create_order(1) for _ in range(40)))
    asked: list[int] = []
    look_up = at.client.get_requests

    async def counted(request_ids: Sequence[str], **_options: Any) -> list[pb.RequestOutcome]:
        asked.append(len(request_ids))
        return await look_up(request_ids)

    monkeypatch.setattr(at.client, "get_requests", counted)
    assert (await at.audit.run()).checked == len(orders)
    assert asked == [len(orders)]


async def test_an_order_that_changes_between_the_two_looks_is_looked_at_again(
    at: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await at.create_order()
    look_up = at.client.get_requests
    looks: list[int] = []

    async def paid_meanwhile(request_ids: Sequence[str], **_options: Any) -> list[pb.RequestOutcome]:
        looks.append(len(request_ids))
        if len(looks) == 1:
            await at.saga.pay(order.id, "test")
        return await look_up(request_ids)

    monkeypatch.setattr(at.client, "get_requests", paid_meanwhile)
    assert (await at.audit.run()).findings == []
    assert looks == [1, 1]
