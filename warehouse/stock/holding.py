"""Taking holds, and making them last. Pure."""

from collections.abc import Iterable

import msgspec

from warehouse.stock import refusals
from warehouse.stock.commands import Answer, Extend, Line, Reserve
from warehouse.stock.draft import NEW_ORDER, Draft
from warehouse.stock.records import HeldLine, MovementType, Reservation, State
from warehouse.stock.refusals import Refusal, Shortage
from warehouse.stock.releasing import release
from warehouse.stock.snapshot import Order

_replace = msgspec.structs.replace
_astuple = msgspec.structs.astuple


def reserve(draft: Draft, command: Reserve) -> Answer | Refusal:
    """Hold what is asked for: all of it, or with `allow_partial` what there is."""
    order = draft.orders.get(command.order_id, NEW_ORDER)
    if order.cancelled_at is not None:
        return refusals.reserve_cancelled(command.order_id, order.cancelled_at)
    if command.expires_at is not None and not draft.now < command.expires_at <= draft.now + command.ttl:
        is_over = command.expires_at <= draft.now
        return refusals.expires_at_over(draft.now) if is_over else refusals.expires_at_too_far(draft.now + command.ttl)
    for line in command.lines:
        if line.key not in draft.levels:
            return draft.level_not_found(line.key)
    lines, shortages = _fill(draft, command.lines)
    if shortages and not (command.allow_partial and lines):
        return refusals.insufficient(shortages)
    draft.check_ledgers(command.lines)
    reservation = _open(draft, command, order, lines)
    cause = draft.cause(command, reservation)
    for held in lines:
        draft.move(held.key, MovementType.RESERVED, held.quantity, 0, held.quantity, cause)
    draft.tell_reservation(cause, "reserved", reservation)
    return Answer((reservation,))


def _open(draft: Draft, command: Reserve, order: Order, lines: tuple[HeldLine, ...]) -> Reservation:
    """A new RESERVED reservation of the order."""
    expires_at = draft.now + command.ttl if command.expires_at is None else command.expires_at
    reservation = Reservation(
        reservation_id=draft.next_id(),
        order_id=command.order_id,
        order_sequence=order.last_sequence + 1,
        state=State.RESERVED,
        # Also where the clock has stepped back: only a tombstone expires as it is made.
        expires_at=max(expires_at, draft.instant + 1),
        created_at=draft.instant,
        closed_at=None,
        reason="",
        correlation_id=command.correlation_id,
        lines=lines,
    )
    draft.add(reservation)
    return reservation


def _fill(draft: Draft, wanted: Iterable[Line]) -> tuple[tuple[HeldLine, ...], tuple[Shortage, ...]]:
    """What can be held of each line, and the lines that fall short."""
    lines, shortages = [], []
    for product_id, warehouse_id, quantity in map(_astuple, wanted):
        available = draft.levels[product_id, warehouse_id].available
        if quantity > available:
            shortages.append(Shortage(product_id, warehouse_id, quantity, available))
        if available > 0:
            lines.append(HeldLine(product_id, warehouse_id, min(quantity, available), quantity))
    return tuple(lines), tuple(shortages)


def extend(draft: Draft, command: Extend) -> Answer | Refusal:
    """Let a hold end later; never earlier."""
    reservation = draft.reservations.get(command.reservation_id)
    if reservation is None:
        return refusals.reservation_not_found(command.reservation_id)
    if draft.is_overdue(reservation):
        draft.check_held(reservation)
        reservation = release(draft, reservation, State.EXPIRED, "", command)
    if reservation.state is not State.RESERVED:
        return refusals.closed(reservation)
    draft.follow_reservation(reservation)
    extended = _replace(reservation, expires_at=max(reservation.expires_at, draft.now + command.ttl))
    draft.reservations[extended.reservation_id] = extended
    draft.tell_reservation(draft.cause(command, extended), "extended", extended)
    return Answer((extended,))
