"""The order state machine: every reachable state, every event, no illegal jump."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_gateway.lifecycle import (
    ENDS,
    NEW,
    Event,
    Illegal,
    Payment,
    Reason,
    State,
    Status,
    Step,
    Stock,
    Transition,
    advance,
    is_open,
    is_settled,
)
from tests.kits.order_states import REACHABLE

JUMPS = {
    Status.PENDING_RESERVATION: {Status.PENDING, Status.REJECTED, Status.CANCELLED},
    Status.PENDING: {Status.PAID, Status.CANCELLED},
    Status.PAID: {Status.SHIPPED, Status.CANCELLED},
    Status.SHIPPED: {Status.COMPLETED},
    Status.COMPLETED: set(),
    Status.CANCELLED: set(),
    Status.REJECTED: set(),
}
QUIET = {Event.DEFERRED, Event.WAREHOUSE_CHOSEN}
"""What changes how an order is reserved, but not where it stands."""
WISHES = {Event.PAY, Event.CANCEL, Event.SHIP, Event.COMPLETE, Event.REFUND_CONFIRMED}
OUTCOMES = {
    Step.RESERVE: (Event.RESERVED, Event.RESERVE_REFUSED, Event.RESERVE_ABANDONED),
    Step.CHARGE: (Event.CHARGED, Event.DECLINED, Event.CHARGE_ABANDONED),
    Step.COMMIT: (Event.COMMITTED, Event.COMMIT_REFUSED),
    Step.CANCEL: (Event.RELEASED, Event.RELEASE_FOUND_COMMITTED),
    Step.REFUND: (Event.REFUNDED, Event.REFUND_REQUESTED),
    Step.GIVE_BACK: (Event.RETURNED,),
}


@pytest.mark.parametrize("event", list(Event))
def test_no_illegal_jump(event: Event) -> None:
    for state in REACHABLE:
        result = advance(state, event, Reason.ADMIN)
        if isinstance(result, Illegal):
            assert event in WISHES
            assert result.message
            continue
        assert result.state.status in JUMPS[state.status] | {state.status}
        assert (result.state.status is Status.CANCELLED) == (result.state.reason is not None)
        assert set(result.ends) >= set(ENDS.get(event, ()))
        if result.begins:
            assert result.state != state


@pytest.mark.parametrize("state", [state for state in REACHABLE if is_settled(state)], ids=str)
def test_what_is_done_outside_agrees_with_the_status(state: State) -> None:
    paid = state.status in (Status.PAID, Status.SHIPPED, Status.COMPLETED)
    assert (state.stock is Stock.COMMITTED) == paid
    assert (state.payment is Payment.CHARGED) == paid
    if state.status in (Status.CANCELLED, Status.REJECTED):
        assert state.stock in (Stock.FREE, Stock.RETURNED)


@pytest.mark.parametrize("event", sorted(QUIET))
def test_another_way_or_warehouse_leaves_every_state_and_step_as_it_is(event: Event) -> None:
    for state in REACHABLE:
        assert advance(state, event) == Transition(state)


@pytest.mark.parametrize("event", sorted(ENDS))
def test_an_outcome_twice_is_as_good_as_once(event: Event) -> None:
    for state in REACHABLE:
        once = advance(state, event)
        assert isinstance(once, Transition)
        twice = advance(once.state, event)
        assert isinstance(twice, Transition)
        assert twice.state == once.state
        assert not twice.begins


def test_a_hold_that_comes_after_its_refusal_is_given_back() -> None:
    rejected = State(Status.REJECTED, Stock.FREE, Payment.NONE)
    held = advance(rejected, Event.RESERVED)
    assert held == Transition(State(Status.REJECTED, Stock.RELEASING, Payment.NONE), (Step.CANCEL,), (Step.RESERVE,))
    assert isinstance(held, Transition)
    assert advance(held.state, Event.RELEASED) == Transition(rejected, (), (Step.CANCEL,))


@given(st.lists(st.sampled_from(list(Event)), max_size=30), st.randoms())
def test_every_order_ends_with_its_steps_done(events: list[Event], random: Random) -> None:
    """Each step begins once, is open while it waits, and doing them all settles the order, in any sequence."""
    state, begun, waiting = NEW, {Step.RESERVE}, {Step.RESERVE}

    def happen(event: Event) -> None:
        nonlocal state
        result = advance(state, event)
        if isinstance(result, Illegal):
            return
        assert not begun & set(result.begins)
        state = result.state
        begun.update(result.begins)
        waiting.difference_update(result.ends)
        waiting.update(result.begins)
        assert waiting == {step for step in Step if is_open(state, step)}

    for event in events:
        if (
            event in WISHES | QUIET
            or event is Event.DEADLINE_PASSED
            or any(event in OUTCOMES[step] for step in waiting)
        ):
            happen(event)
    while waiting:
        step = random.choice(sorted(waiting))
        happen(random.choice(OUTCOMES[step]))
    assert is_settled(state)


def test_cancelled_while_the_sale_is_under_way_gives_the_stock_back() -> None:
    state = State(Status.PAID, Stock.COMMITTING, Payment.CHARGED)
    cancelled = advance(state, Event.CANCEL)
    assert isinstance(cancelled, Transition)
    assert cancelled.begins == (Step.REFUND,)
    committed = advance(cancelled.state, Event.COMMITTED)
    assert isinstance(committed, Transition)
    assert committed.begins == (Step.GIVE_BACK,)
