"""A database for `decide`, small enough to be looked at whole, and the commands that Hypothesis throws at it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import strategies as st

from warehouse.stock.commands import (
    Cancel,
    ChangeStock,
    Command,
    Commit,
    CountStock,
    Expire,
    Extend,
    Line,
    Outcome,
    Reserve,
)
from warehouse.stock.deciding import Decision, Order, Stock, decide
from warehouse.stock.records import (
    Event,
    Level,
    LevelKey,
    Movement,
    MovementType,
    Reservation,
    State,
    StoredAnswer,
)
from warehouse.writing.plan import plan_of

START = 1_790_000_000_000_000
SECOND = 1_000_000
PRODUCTS = (1, 2)
WAREHOUSES = (1, 2)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class World:
    """All rows; `run` carries out a batch as the store would, and checks every invariant afterwards."""

    levels: dict[LevelKey, Level] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    movements: list[Movement] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    batches: int = 0

    def run(self, commands: Sequence[Command], now: int = START) -> list[Outcome]:
        """Decide on what `plan` asks for of the state as it is, and write the rows."""
        self.batches += 1
        decision = decide(self.asked_for(commands, now), commands)
        self._write(decision)
        self.check()
        return decision.outcomes

    def one(self, command: Command, now: int = START) -> Outcome:
        """The outcome of a single command."""
        [outcome] = self.run([command], now)
        return outcome

    def stock(self, now: int) -> Stock:
        """What a transaction would have read."""
        orders: dict[str, Order] = {}
        for item in sorted(self.reservations.values(), key=lambda item: item.order_sequence):
            known = orders.get(item.order_id, Order())
            ids = (*known.reservation_ids, item.reservation_id)
            orders[item.order_id] = Order(item.order_sequence, item.closed_at if item.is_tombstone else None, ids)
        return Stock(
            now=now,
            entropy=self.batches,
            levels=self.levels,
            reservations=self.reservations,
            orders=orders,
            answers=self.answers,
            products=frozenset(PRODUCTS),
            warehouses=frozenset(WAREHOUSES),
        )

    def asked_for(self, commands: Sequence[Command], now: int) -> Stock:
        """What a transaction of `commands` would have read: nothing but what their plan names."""
        everything, plan = self.stock(now), plan_of(commands)
        plan.locate(
            [
                (item.order_id, item.reservation_id)
                for item in sorted(self.reservations.values(), key=lambda item: item.order_sequence)
                if item.order_id in plan.orders_with_holds
            ],
            [stored for request_id, stored in self.answers.items() if request_id in plan.reserve_requests],
        )
        meant = {key: item for key, item in self.reservations.items() if key in plan.reservations}
        plan.levels.update(line.key for item in meant.values() for line in item.lines)
        missing = plan.levels - self.levels.keys()
        return Stock(
            now=now,
            entropy=everything.entropy,
            levels={key: level for key, level in self.levels.items() if key in plan.levels},
            reservations=meant,
            orders={
                order_id: Order(order.last_sequence, order.cancelled_at, tuple(plan.holds.get(order_id, ())))
                for order_id, order in everything.orders.items()
                if order_id in plan.orders
            },
            answers={key: stored for key, stored in self.answers.items() if key in plan.requests},
            products=everything.products & {key[0] for key in missing},
            warehouses=everything.warehouses & {key[1] for key in missing},
        )

    def check(self) -> None:
        """Invariants 1, 2, 3 and 6."""
        held: dict[LevelKey, int] = {}
        for item in self.reservations.values():
            if item.state is State.RESERVED:
                for line in item.lines:
                    held[line.key] = held.get(line.key, 0) + line.quantity
        for key, level in self.levels.items():
            assert 0 <= level.reserved <= level.on_hand
            assert level.reserved == held.pop(key, 0)
            ledger = [move for move in self.movements if (move.product_id, move.warehouse_id) == key]
            assert [move.sequence for move in ledger] == list(range(1, level.version + 1))
            ends = [(0, 0), *((move.on_hand_after, move.reserved_after) for move in ledger)]
            assert [(move.on_hand_before, move.reserved_before) for move in ledger] == ends[:-1]
            assert ends[-1] == (level.on_hand, level.reserved)
            self._check_time(level, ledger)
        assert not held
        for item in self.reservations.values():
            assert item.closed_at is None or item.is_tombstone or item.closed_at > item.created_at
        ids = [event.event_id for event in self.events]
        assert len(ids) == len(set(ids))
        about_stock = {event.event_id for event in self.events if "extended" not in event.type}
        assert about_stock == {move.event_id for move in self.movements}

    def _check_time(self, level: Level, ledger: Sequence[Movement]) -> None:
        """No movement of a level, and no event about one, is before the one it follows, whatever the clock did."""
        steps = [(move.created_at, move.event_id) for move in ledger]
        for (before, event_before), (after, event_after) in pairwise(steps):
            assert after >= before
            assert event_after >= event_before
        assert level.updated_at == steps[-1][0]
        assert level.created_at == steps[0][0]

    def _write(self, decision: Decision) -> None:
        for level in decision.new_levels:
            assert level.key not in self.levels
        for level in decision.changed_levels:
            assert level.key in self.levels
        for item in decision.new_reservations:
            assert item.reservation_id not in self.reservations
        for item in decision.changed_reservations:
            assert item.reservation_id in self.reservations
        for answer in decision.answers:
            assert answer.request_id not in self.answers
        assert len({answer.request_id for answer in decision.answers}) == len(decision.answers)
        self.levels.update({level.key: level for level in (*decision.new_levels, *decision.changed_levels)})
        changed = (*decision.new_reservations, *decision.changed_reservations)
        self.reservations.update({item.reservation_id: item for item in changed})
        self.answers.update({answer.request_id: answer for answer in decision.answers})
        self.movements += decision.movements
        self.events += decision.events

    def without_ids(self, outcomes: Sequence[Outcome]) -> str:
        """Everything there is, with ids replaced by the order in which they appear."""
        movements: dict[LevelKey, list[Movement]] = {}
        for move in self.movements:
            movements.setdefault((move.product_id, move.warehouse_id), []).append(move)
        everything: list[Any] = [
            [repr(outcome) for outcome in outcomes],
            sorted(self.levels.items()),
            list(self.reservations.values()),
            sorted(movements.items()),
            self.events,
            # without request hashes: they are made of the ids
            [(stored.request_id, stored.answer) for stored in self.answers.values()],
        ]
        seen: dict[str, str] = {}
        text = msgspec.json.encode(everything).decode()
        return _UUID.sub(lambda match: seen.setdefault(match[0], f"id-{len(seen)}"), text)


@dataclass(frozen=True)
class ByReservation:
    """A command on the n-th reservation that callers know of; which one that is shows when it is sent."""

    command: Commit | Cancel | Extend | Expire
    number: int

    def resolve(self, known: Sequence[str]) -> Command:
        """The command with the id filled in; an unknown one if there is none yet."""
        reservation_id = known[self.number % len(known)] if known else "unknown"
        return msgspec.structs.replace(self.command, reservation_id=reservation_id)


Step = Command | ByReservation

_levels = st.tuples(st.sampled_from((*PRODUCTS, 9)), st.sampled_from(WAREHOUSES))
_orders = st.sampled_from(("a", "b", "c"))
_requests = st.integers(0, 12).map(lambda number: f"r{number}")
_ttl = st.integers(1, 30).map(lambda seconds: seconds * SECOND)
_lines = st.dictionaries(_levels, st.integers(1, 6), min_size=1, max_size=3).map(
    lambda wanted: tuple(Line(*key, quantity) for key, quantity in sorted(wanted.items()))
)
_numbers = st.integers(0, 20)

reserves = st.builds(Reserve, _requests, _orders, _lines, _ttl, st.booleans())
commits = st.builds(Commit, _requests, lines=st.just(()) | _lines, reacquire=st.booleans())
cancels = st.builds(Cancel, _requests, reason=st.sampled_from(("", "changed my mind")))
extends = st.builds(Extend, _requests, st.just(""), _ttl)
changes = st.builds(
    ChangeStock,
    _requests,
    st.sampled_from((*PRODUCTS, 9)),
    st.sampled_from((*WAREHOUSES, 9)),
    st.just(MovementType.STOCK_IN),
    st.integers(-5, 10).filter(bool),
)
counts = st.builds(
    CountStock,
    _requests,
    st.sampled_from(PRODUCTS),
    st.sampled_from(WAREHOUSES),
    st.integers(0, 20),
    st.none() | _numbers,
)


def _with_order(command: Commit | Cancel, order_id: str) -> Command:
    return msgspec.structs.replace(command, order_id=order_id)


steps: st.SearchStrategy[Step] = st.one_of(
    reserves,
    reserves,
    changes,
    counts,
    st.builds(_with_order, commits | cancels, _orders),
    st.builds(
        lambda command, request: msgspec.structs.replace(command, reserve_request_id=request), cancels, _requests
    ),
    st.builds(ByReservation, commits | cancels | extends | st.builds(Expire, st.just("")), _numbers),
)
batches = st.lists(st.tuples(st.integers(0, 20 * SECOND), st.lists(steps, max_size=8)), max_size=6)
"""Batches of steps, each with the time that passes before it."""
stumbling_batches = st.lists(st.tuples(st.integers(-20 * SECOND, 20 * SECOND), st.lists(steps, max_size=8)), max_size=6)
"""The same, with a clock that also steps back."""
