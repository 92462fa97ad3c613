"""The pure core: what is promised for any sequence of commands, and each rule by example."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from tests.kits.stock_world import (
    SECOND,
    START,
    ByReservation,
    Step,
    World,
    batches,
    stumbling_batches,
)
from warehouse.stock.commands import (
    Answer,
    Cancel,
    ChangeStock,
    Command,
    Commit,
    CorruptedLedger,
    CountStock,
    Expire,
    Extend,
    Line,
    Outcome,
    Reserve,
)
from warehouse.stock.deciding import decide
from warehouse.stock.records import MovementType, Reservation, State
from warehouse.stock.refusals import Reason, Refusal, Shortage

TTL = 60 * SECOND


def stocked(on_hand: int = 10) -> World:
    """Products 1 and 2 in warehouses 1 and 2, `on_hand` units of each."""
    world = World()
    for product_id in (1, 2):
        for warehouse_id in (1, 2):
            request_id = f"stock-{product_id}-{warehouse_id}"
            world.one(ChangeStock(request_id, product_id, warehouse_id, MovementType.STOCK_IN, on_hand))
    return world


def held(world: World, request_id: str, order_id: str, *lines: Line, now: int = START, **more: Any) -> Reservation:
    """A hold that must succeed."""
    return only(world.one(Reserve(request_id, order_id, lines, TTL, **more), now))


def only(outcome: Outcome) -> Reservation:
    """The one reservation of an answer."""
    assert isinstance(outcome, Answer), outcome
    [reservation] = outcome.reservations
    return reservation


def reason(outcome: Outcome) -> Reason:
    """Why a command was refused."""
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


@settings(max_examples=200, deadline=None)
@given(batches | stumbling_batches)
def test_any_cut_into_batches_gives_what_one_by_one_gives(cut: list[tuple[int, list[Step]]]) -> None:
    batched, single = stocked(), stocked()
    batched_outcomes: list[Outcome] = []
    single_outcomes: list[Outcome] = []
    now = START
    for passed, batch in cut:
        now += passed
        known = [list(world.reservations) for world in (batched, single)]

        def resolved(ids: list[str], batch: list[Step] = batch) -> list[Any]:
            return [step.resolve(ids) if isinstance(step, ByReservation) else step for step in batch]

        batched_outcomes += batched.run(resolved(known[0]), now)
        single_outcomes += [single.one(command, now) for command in resolved(known[1])]
    assert batched.without_ids(batched_outcomes) == single.without_ids(single_outcomes)


@settings(max_examples=200, deadline=None)
@given(batches)
def test_what_plan_asks_for_is_all_that_decide_needs(cut: list[tuple[int, list[Step]]]) -> None:
    world, now = stocked(), START
    for passed, batch in cut:
        now += passed
        known = list(world.reservations)
        commands = [step.resolve(known) if isinstance(step, ByReservation) else step for step in batch]
        assert decide(world.asked_for(commands, now), commands) == decide(world.stock(now), commands)
        world.run(commands, now)


def test_time_stands_still_on_a_level_while_the_clock_is_behind_and_expiry_goes_by_the_clock() -> None:
    """A year ahead for a moment: what was written then stays in front, other levels and deadlines are not touched."""
    world, year = stocked(), 365 * 86_400 * SECOND
    world.one(ChangeStock("ahead", 1, 1, MovementType.STOCK_IN, 1), START + year)
    behind = held(world, "r1", "o1", Line(1, 1, 1), now=START + 1)
    other = held(world, "r2", "o2", Line(2, 1, 1), now=START + 1)
    assert behind.created_at == START + year + 1
    assert (other.created_at, other.expires_at) == (START + 1, START + 1 + TTL)
    sold = only(world.one(Commit("c", order_id="o1"), START + 2))
    assert sold.closed_at == START + year + 2
    assert only(world.one(Expire(other.reservation_id), other.expires_at)).state is State.EXPIRED


@settings(max_examples=50, deadline=None)
@given(batches)
def test_decide_changes_nothing_it_was_given(cut: list[tuple[int, list[Step]]]) -> None:
    world, now = stocked(), START
    for passed, batch in cut:
        now += passed
        stock = world.stock(now)
        before = repr(stock)
        known = list(world.reservations)
        commands = [step.resolve(known) if isinstance(step, ByReservation) else step for step in batch]
        decide(stock, commands)
        assert repr(stock) == before
        world.run(commands, now)


def test_the_last_unit_is_sold_once() -> None:
    world = stocked(1)
    commands = [Reserve(f"r{number}", f"o{number}", (Line(1, 1, 1),), TTL) for number in range(5)]
    outcomes = world.run(commands)
    assert [isinstance(outcome, Answer) for outcome in outcomes] == [True, False, False, False, False]
    assert outcomes[1] == Refusal(
        Reason.INSUFFICIENT_STOCK,
        "product 1 in warehouse 1: requested 1, available 0",
        (),
        (Shortage(1, 1, 1, 0),),
    )


def test_all_lines_or_none() -> None:
    world = stocked(5)
    refused = world.one(Reserve("r", "o", (Line(1, 1, 5), Line(2, 2, 6)), TTL))
    assert isinstance(refused, Refusal)
    assert refused.shortages == (Shortage(2, 2, 6, 5),)
    assert all(level.reserved == 0 for level in world.levels.values())


def test_partial_holds_what_there_is_and_says_so() -> None:
    world = stocked(5)
    reservation = held(world, "r", "o", Line(1, 1, 3), Line(2, 2, 9), allow_partial=True)
    assert [(line.quantity, line.requested_quantity) for line in reservation.lines] == [(3, 3), (5, 9)]


def test_partial_of_nothing_is_refused() -> None:
    world = stocked(5)
    held(world, "r1", "o1", Line(1, 1, 5))
    assert (
        reason(world.one(Reserve("r2", "o2", (Line(1, 1, 1),), TTL, allow_partial=True))) is Reason.INSUFFICIENT_STOCK
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (Line(9, 1, 1), Reason.PRODUCT_NOT_FOUND),
        (Line(1, 9, 1), Reason.WAREHOUSE_NOT_FOUND),
    ],
)
def test_what_does_not_exist_is_named(line: Line, expected: Reason) -> None:
    assert reason(stocked().one(Reserve("r", "o", (line,), TTL))) is expected


def test_a_level_that_was_never_opened_is_not_found() -> None:
    assert reason(World().one(Reserve("r", "o", (Line(1, 1, 1),), TTL))) is Reason.STOCK_LEVEL_NOT_FOUND


def test_a_replay_gets_the_stored_answer_and_other_content_is_refused() -> None:
    world = stocked()
    first = world.one(Reserve("r", "o", (Line(1, 1, 4),), TTL))
    world.one(Commit("c", order_id="o"))
    again = world.one(Reserve("r", "o", (Line(1, 1, 4),), TTL, actor="another", correlation_id="another"))
    assert again == first
    assert reason(world.one(Reserve("r", "o", (Line(1, 1, 5),), TTL))) is Reason.REQUEST_ID_REUSED
    assert reason(world.one(Cancel("r", order_id="o"))) is Reason.REQUEST_ID_REUSED


def test_a_refusal_is_not_stored() -> None:
    world = stocked(1)
    assert reason(world.one(Reserve("r", "o", (Line(1, 1, 2),), TTL))) is Reason.INSUFFICIENT_STOCK
    world.one(ChangeStock("more", 1, 1, MovementType.STOCK_IN, 1))
    only(world.one(Reserve("r", "o", (Line(1, 1, 2),), TTL)))


def test_commit_sells_and_repeats_safely() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    sold = only(world.one(Commit("c1", reservation_id=hold.reservation_id)))
    assert sold.state is State.COMMITTED
    assert (world.levels[1, 1].on_hand, world.levels[1, 1].reserved) == (6, 0)
    assert only(world.one(Commit("c2", reservation_id=hold.reservation_id))) == sold
    assert reason(world.one(Cancel("x", reservation_id=hold.reservation_id))) is Reason.RESERVATION_COMMITTED
    assert reason(world.one(Extend("e", hold.reservation_id, TTL))) is Reason.RESERVATION_COMMITTED


def test_commit_of_a_part_releases_the_rest() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4), Line(2, 1, 2))
    sold = only(world.one(Commit("c", reservation_id=hold.reservation_id, lines=(Line(1, 1, 3),))))
    assert [line.committed_quantity for line in sold.lines] == [3, 0]
    assert (world.levels[1, 1].on_hand, world.levels[1, 1].reserved) == (7, 0)
    assert (world.levels[2, 1].on_hand, world.levels[2, 1].reserved) == (10, 0)
    assert [move.type for move in world.movements[-3:]] == ["COMMITTED", "RELEASED", "RELEASED"]
    assert len({move.event_id for move in world.movements[-3:]}) == 1


def test_commit_of_more_than_is_held_is_refused() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    refused = world.one(Commit("c", reservation_id=hold.reservation_id, lines=(Line(1, 1, 5), Line(2, 2, 1))))
    assert isinstance(refused, Refusal)
    assert refused.shortages == (Shortage(1, 1, 5, 4), Shortage(2, 2, 1, 0))


def test_commit_by_order_takes_all_open_holds() -> None:
    world = stocked()
    held(world, "r1", "o", Line(1, 1, 4))
    held(world, "r2", "o", Line(1, 1, 2), Line(2, 2, 1))
    answer = world.one(Commit("c", order_id="o"))
    assert isinstance(answer, Answer)
    assert [item.state for item in answer.reservations] == [State.COMMITTED, State.COMMITTED]
    assert world.levels[1, 1].on_hand == 4


def test_commit_of_a_part_by_order_takes_the_oldest_holds_first() -> None:
    world = stocked()
    held(world, "r1", "o", Line(1, 1, 4))
    held(world, "r2", "o", Line(1, 1, 2))
    answer = world.one(Commit("c", order_id="o", lines=(Line(1, 1, 4),)))
    assert isinstance(answer, Answer)
    assert [item.state for item in answer.reservations] == [State.COMMITTED, State.CANCELLED]
    assert (world.levels[1, 1].on_hand, world.levels[1, 1].reserved) == (6, 0)


def test_a_hold_is_dead_from_the_instant_of_its_expiry() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    only(world.one(Extend("e", hold.reservation_id, 1), hold.expires_at - 1))
    assert reason(world.one(Commit("c", order_id="o"), hold.expires_at)) is Reason.RESERVATION_EXPIRED
    assert world.levels[1, 1].reserved == 0
    assert world.reservations[hold.reservation_id].state is State.EXPIRED
    assert reason(world.one(Extend("e2", hold.reservation_id, TTL), hold.expires_at)) is Reason.RESERVATION_EXPIRED


def test_the_refusing_call_frees_the_hold_once() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    for number in range(3):
        world.one(Extend(f"e{number}", hold.reservation_id, TTL), hold.expires_at)
    assert [move.type for move in world.movements].count(MovementType.EXPIRED) == 1


def test_extend_never_shortens() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    assert only(world.one(Extend("e1", hold.reservation_id, SECOND))).expires_at == hold.expires_at
    longer = only(world.one(Extend("e2", hold.reservation_id, 2 * TTL)))
    assert longer.expires_at == START + 2 * TTL


def test_reacquire_commits_in_one_step_while_stock_is_there() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    sold = only(world.one(Commit("c", order_id="o", reacquire=True), hold.expires_at + 1))
    assert sold.state is State.COMMITTED
    assert world.levels[1, 1].on_hand == 6


def test_reacquire_of_stock_that_is_gone_is_refused() -> None:
    world = stocked(4)
    hold = held(world, "r", "o", Line(1, 1, 4))
    late = hold.expires_at + 1
    world.one(Expire(hold.reservation_id), late)
    held(world, "r2", "o2", Line(1, 1, 1), now=late)
    assert reason(world.one(Commit("c", order_id="o", reacquire=True), late)) is Reason.RESERVATION_EXPIRED


def test_reacquire_by_order_does_not_guess_between_two_expired_holds() -> None:
    world = stocked()
    held(world, "r1", "o", Line(1, 1, 1))
    hold = held(world, "r2", "o", Line(1, 1, 1))
    assert reason(world.one(Commit("c", order_id="o", reacquire=True), hold.expires_at)) is Reason.RESERVATION_EXPIRED


def test_cancel_gives_back_and_repeats_safely() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    cancelled = only(world.one(Cancel("x", reservation_id=hold.reservation_id, reason="changed my mind")))
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "changed my mind")
    assert only(world.one(Cancel("x2", order_id="o"))) == cancelled
    assert reason(world.one(Commit("c", order_id="o"))) is Reason.RESERVATION_CANCELLED
    assert world.levels[1, 1].reserved == 0


def test_cancel_of_an_unseen_order_fences_a_late_reserve() -> None:
    world = stocked()
    tombstone = only(world.one(Cancel("x", order_id="o")))
    assert tombstone.lines == ()
    refused = world.one(Reserve("r", "o", (Line(1, 1, 1),), TTL), START + SECOND)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.RESERVE_CANCELLED
    assert only(world.one(Cancel("x2", order_id="o"))) == tombstone


def test_cancel_of_an_unseen_request_fences_it() -> None:
    world = stocked()
    assert world.one(Cancel("x", reserve_request_id="r")) == Answer()
    assert world.one(Cancel("x2", reserve_request_id="r")) == Answer()
    assert reason(world.one(Reserve("r", "o", (Line(1, 1, 1),), TTL))) is Reason.RESERVE_CANCELLED


def test_a_cancel_can_not_cancel_itself() -> None:
    assert reason(stocked().one(Cancel("x", reserve_request_id="x"))) is Reason.REQUEST_ID_REUSED


def test_cancel_by_request_finds_the_hold_even_in_the_same_batch() -> None:
    world = stocked()
    _, answer = world.run([Reserve("r", "o", (Line(1, 1, 1),), TTL), Cancel("x", reserve_request_id="r")])
    assert only(answer).state is State.CANCELLED


def test_cancel_by_the_request_of_something_else_is_refused() -> None:
    world = stocked()
    assert reason(world.one(Cancel("x", reserve_request_id="stock-1-1"))) is Reason.RESERVATION_NOT_FOUND


def test_cancel_by_the_request_of_an_extend_is_refused() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 1))
    only(world.one(Extend("e", hold.reservation_id, 2 * TTL), START + 1))
    assert reason(world.one(Cancel("x", reserve_request_id="e"), START + 2)) is Reason.RESERVATION_NOT_FOUND


def test_cancel_of_an_overdue_hold_finds_it_expired() -> None:
    world = stocked()
    hold = held(world, "r", "o", Line(1, 1, 4))
    assert only(world.one(Cancel("x", order_id="o"), hold.expires_at)).state is State.EXPIRED


@pytest.mark.parametrize(
    "command",
    [
        Commit("c", reservation_id="none"),
        Cancel("x", reservation_id="none"),
        Extend("e", "none", TTL),
    ],
)
def test_unknown_reservations_are_not_found(command: Commit | Cancel | Extend) -> None:
    assert reason(stocked().one(command)) is Reason.RESERVATION_NOT_FOUND


def test_an_order_of_which_nothing_is_known_is_not_found() -> None:
    assert reason(stocked().one(Commit("c", order_id="none"))) is Reason.ORDER_NOT_FOUND


def test_only_free_units_can_be_removed() -> None:
    world = stocked()
    held(world, "r", "o", Line(1, 1, 4))
    assert reason(world.one(ChangeStock("out", 1, 1, MovementType.STOCK_OUT, -7))) is Reason.INSUFFICIENT_STOCK
    answer = world.one(ChangeStock("out", 1, 1, MovementType.DAMAGED, -6))
    assert isinstance(answer, Answer)
    assert answer.movement is not None
    assert (answer.movement.type, answer.movement.quantity) == (MovementType.DAMAGED, 6)


def test_a_count_sets_on_hand_but_never_below_what_is_held() -> None:
    world = stocked()
    held(world, "r", "o", Line(1, 1, 4))
    assert reason(world.one(CountStock("c1", 1, 1, 3))) is Reason.INSUFFICIENT_STOCK
    assert reason(world.one(CountStock("c2", 1, 1, 30, reserved=3))) is Reason.RESERVED_MISMATCH
    answer = world.one(CountStock("c3", 1, 1, 7, reserved=4))
    assert isinstance(answer, Answer)
    assert answer.movement is not None
    assert answer.movement.quantity == -3
    assert world.levels[1, 1].on_hand == 7


def test_drifted_counters_stop_one_command_only() -> None:
    world = stocked()
    bad = held(world, "r1", "o1", Line(1, 1, 4))
    good = held(world, "r2", "o2", Line(2, 1, 4))
    level = world.levels[1, 1]
    stock = world.stock(bad.expires_at)
    stock.levels[1, 1] = msgspec.structs.replace(level, reserved=3)
    decision = decide(stock, [Expire(bad.reservation_id), Commit("c", order_id="o1"), Expire(good.reservation_id)])
    assert [type(outcome) for outcome in decision.outcomes] == [CorruptedLedger, CorruptedLedger, Answer]
    assert [move.product_id for move in decision.movements] == [2]


def test_a_torn_ledger_stops_every_kind_of_change_before_it_has_an_effect() -> None:
    world = stocked()
    bad = held(world, "r1", "o1", Line(1, 1, 1), Line(2, 1, 1))
    gone = held(world, "r2", "o2", Line(1, 1, 1))
    world.one(Expire(gone.reservation_id), gone.expires_at)
    stock = msgspec.structs.replace(world.stock(bad.expires_at - 1), torn=frozenset({(1, 1)}))
    commands: list[Command] = [
        Reserve("r3", "o3", (Line(1, 1, 1), Line(2, 1, 1)), TTL),
        Commit("c1", order_id="o1"),
        Commit("c2", order_id="o2", reacquire=True),
        Cancel("x", order_id="o1"),
        ChangeStock("in", 1, 1, MovementType.STOCK_IN, 1),
        CountStock("count", 1, 1, 5),
    ]
    decision = decide(stock, [*commands, Reserve("r4", "o4", (Line(2, 1, 1),), TTL)])
    assert [type(outcome) for outcome in decision.outcomes] == [CorruptedLedger] * len(commands) + [Answer]
    assert [move.product_id for move in decision.movements] == [2]
    assert [event.subject for event in decision.events] == ["o4"]
    assert [stored.request_id for stored in decision.answers] == ["r4"]
    overdue = msgspec.structs.replace(stock, now=bad.expires_at)
    late = decide(overdue, [Expire(bad.reservation_id), Extend("e", bad.reservation_id, TTL)])
    assert [type(outcome) for outcome in late.outcomes] == [CorruptedLedger, CorruptedLedger]
    assert not late.has_changes
