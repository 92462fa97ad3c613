"""PURE: what an event does to an order, and which rows say so."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from order_gateway.allocation import ChosenWarehouses, chosen_warehouses, with_warehouses
from order_gateway.gateway.port import Hold
from order_gateway.lifecycle import (
    Event,
    Illegal,
    Order,
    Reason,
    Status,
    Step,
    Transition,
    Way,
    advance,
    is_open,
)
from order_gateway.storage.rows import encode, hold_records, reservations_after
from service_kit.times import from_microseconds, to_microseconds

NOTE_LENGTH_MAX = 255
SYSTEM = "system"
"""The actor of what nobody asked for."""


class Change(msgspec.Struct, frozen=True):
    """An event of an order and what it brings along.

    Attributes:
        payment_provider: who is asked to take the money of a PAY.
        provider_reference: their number for the payment; of a REFUND_CONFIRMED, for the refund.
        lease_seconds: how long the steps that begin with it are left to the caller, before the relay takes over.
        warehouses: those of the order's lines from now on.
        expected_warehouses: those that a RESERVE_REFUSED or WAREHOUSE_CHOSEN is about; where the order has others by
            now, it does nothing.
    """

    event: Event
    actor: str = SYSTEM
    reason: Reason | None = None
    note: str | None = None
    hold: Hold | None = None
    refusal: Mapping[str, Any] | None = None
    payment_method: str | None = None
    payment_reference: str | None = None
    payment_provider: str | None = None
    provider_reference: str | None = None
    lease_seconds: float = 0
    warehouses: ChosenWarehouses | None = None
    expected_warehouses: tuple[int | None, ...] | None = None


class Applied(msgspec.Struct, frozen=True):
    """An order after an event, and what the event did."""

    order: Order
    result: Transition | Illegal


class Changes:
    """What one transaction writes: rows by kind, as `statements.WRITES` knows them."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[object, ...]]] = {}

    def note(self, before: Order, after: Order) -> None:
        """An order as it is after an event."""
        state = after.state
        self._add(
            "moved",
            after.id,
            after.version,
            state.status,
            state.stock,
            state.payment,
            state.reason,
            after.way,
            to_microseconds(after.payment_deadline),
            to_microseconds(after.updated_at),
        )
        methods = (after.payment_method, after.payment_reference, after.payment_provider)
        if methods != (before.payment_method, before.payment_reference, before.payment_provider):
            self._add("methods", after.id, *methods)
        if after.refusal is not before.refusal:
            self._add("refusals", after.id, encode(after.refusal).decode())
        if after.actor != before.actor:
            self._add("actors", after.id, after.actor)
        if after.items is not before.items:
            self._add("recounted", after.id, after.warehouse_changes)
            for position, item in enumerate(after.items, 1):
                self._add("warehouses", after.id, position, item.warehouse_id)

    def add_history(self, before: Order, after: Order, event: Event, actor: str, note: str | None, now: int) -> None:
        """What happened."""
        statuses = (before.state.status, after.state.status)
        self._add("history", after.id, after.version, event, *statuses, note, actor, after.correlation_id, now)

    def begin(self, order_id: int, step: Step, now: int, lease_seconds: float, traceparent: str) -> None:
        """A step that is to be done, left to the caller for `lease_seconds`."""
        self._add("intents", order_id, step, now + round(lease_seconds * 1e6), traceparent or None, now)

    def end(self, order_id: int, step: Step) -> None:
        """A step that is done."""
        self._add("ended", order_id, step)

    def make_due(self, order_id: int, step: Step, now: int) -> None:
        """A step that the caller leaves to the relay."""
        self._add("due", order_id, step, now)

    def add_hold(self, order_id: int, hold: Hold) -> None:
        """What the warehouse holds."""
        for record in hold_records(order_id, hold):
            self._add("reservations", *msgspec.structs.astuple(record))

    def add_payment(self, order: Order, now: int) -> None:
        """A payment that begins."""
        amount = (order.total_amount, order.currency)
        self._add(
            "payments",
            order.id,
            *amount,
            order.payment_provider,
            order.payment_method,
            order.payment_reference,
            now,
        )

    def note_charge(self, order_id: int, now: int, provider_reference: str | None) -> None:
        """The money is taken."""
        self._add("charged", order_id, now, provider_reference)

    def note_refund(self, order_id: int, now: int) -> None:
        """The money is given back."""
        self._add("refunded", order_id, now)

    def request_refund(self, order: Order, now: int) -> None:
        """Whoever took the money is to give it back."""
        amount = (order.total_amount, order.currency)
        how = (order.payment_method, order.payment_reference, order.state.reason)
        self._add("refunds", order.id, *amount, *how, now)

    def confirm_refund(self, order_id: int, now: int, actor: str, reference: str | None) -> None:
        """They did."""
        self._add("confirmed", order_id, now, actor, reference)
        self.note_refund(order_id, now)

    def _add(self, kind: str, *row: object) -> None:
        self.rows.setdefault(kind, []).append(row)


def apply_event(
    order: Order, change: Change, changes: Changes, *, now: int, grace_seconds: float, traceparent: str
) -> Applied:
    """What an event does to an order; what is to be written is added to `changes`.

    Args:
        now: the database's clock, in microseconds.
        grace_seconds: how long a hold outlives the order's time to be paid.
        traceparent: of the request that asked for it; its steps continue that trace.
    """
    result = _decide(order, change, now)
    if isinstance(result, Illegal):
        return Applied(order, result)
    for step in result.ends:
        changes.end(order.id, step)
    if not _has_effect(order, change, result):
        return Applied(order, result)
    if change.event is Event.DEFERRED:
        changes.make_due(order.id, Step.RESERVE, now)
    # Also where the database's clock has stepped back, nothing is written to be before what it follows.
    at = max(now, to_microseconds(order.updated_at) + 1)
    after = _after(order, change, result, now, at, grace_seconds)
    changes.note(order, after)
    _add_payment(changes, after, change, at)
    note = change.note[:NOTE_LENGTH_MAX] if change.note else None
    changes.add_history(order, after, change.event, change.actor, note, at)
    for step in result.begins:
        changes.begin(order.id, step, now, change.lease_seconds, traceparent)
    if change.hold is not None:
        changes.add_hold(order.id, change.hold)
    return Applied(after, result)


def _decide(order: Order, change: Change, now: int) -> Transition | Illegal:
    late = from_microseconds(now) >= order.payment_deadline
    if change.event is Event.DEADLINE_PASSED and not late:
        return Transition(order.state)
    if change.event is Event.PAY and late and order.state.status is Status.PENDING:
        return Illegal("PAYMENT_EXPIRED", "the time to pay this order has run out; place a new order")
    if change.expected_warehouses is not None and change.expected_warehouses != chosen_warehouses(order.items):
        return Transition(order.state)
    return advance(order.state, change.event, change.reason)


def _after(order: Order, change: Change, result: Transition, now: int, at: int, grace_seconds: float) -> Order:
    """The order after an event that is written to have happened `at`, while the clock says `now`."""
    values: dict[str, Any] = {
        "version": order.version + 1,
        "state": result.state,
        "updated_at": from_microseconds(at),
        "reservations": reservations_after(order, change.hold, result.state, now),
    }
    if change.event is Event.DEFERRED:
        values["way"] = Way.QUEUED
    if change.hold is not None:
        # The hold must outlive the deadline, whenever its answer came in.
        grace = timedelta(seconds=grace_seconds)
        values["payment_deadline"] = change.hold.expires_at - grace
    if change.actor != SYSTEM:
        values["actor"] = change.actor
    if change.warehouses is not None and change.warehouses != chosen_warehouses(order.items):
        values["items"] = with_warehouses(order.items, change.warehouses)
        values["warehouse_changes"] = order.warehouse_changes + (None not in chosen_warehouses(order.items))
    if change.refusal is not None:
        values["refusal"] = dict(change.refusal)
    if change.event is Event.PAY:
        values["payment_method"] = change.payment_method or order.payment_method
        values["payment_reference"] = change.payment_reference
        values["payment_provider"] = change.payment_provider
    return replace(order, **values)


def _has_effect(order: Order, change: Change, result: Transition) -> bool:
    """Whether an event leaves something to be written; two kinds do although the state stays as it is."""
    if change.event is Event.DEFERRED:
        return order.state.status is Status.PENDING_RESERVATION and order.way is not Way.QUEUED
    if change.event is Event.WAREHOUSE_CHOSEN:
        return is_open(order.state, Step.RESERVE) and chosen_warehouses(order.items) == change.expected_warehouses
    return result.state != order.state


def _add_payment(changes: Changes, order: Order, change: Change, now: int) -> None:
    if change.event is Event.PAY:
        changes.add_payment(order, now)
    elif change.event is Event.CHARGED:
        changes.note_charge(order.id, now, change.provider_reference)
    elif change.event is Event.REFUNDED:
        changes.note_refund(order.id, now)
    elif change.event is Event.REFUND_REQUESTED:
        changes.request_refund(order, now)
    elif change.event is Event.REFUND_CONFIRMED:
        changes.confirm_refund(order.id, now, change.actor, change.provider_reference)
