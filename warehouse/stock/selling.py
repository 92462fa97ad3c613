"""Selling what is held, all or part of it, and what had expired but is still there. Pure."""

from collections.abc import Iterable

import msgspec

from warehouse.stock import refusals
from warehouse.stock.commands import Answer, Commit, Line
from warehouse.stock.draft import Draft
from warehouse.stock.records import LevelKey, MovementType, Reservation, State
from warehouse.stock.refusals import Refusal, Shortage
from warehouse.stock.releasing import release

_replace = msgspec.structs.replace


def commit(draft: Draft, command: Commit) -> Answer | Refusal:
    """Sell the open holds that are meant; without any, what was sold before, or what expired if that may be."""
    found = draft.targets(command)
    if not found:
        if command.order_id:
            return refusals.order_not_found(command.order_id)
        return refusals.reservation_not_found(command.reservation_id)
    if refusal := draft.too_large(command, found):
        return refusal
    overdue = [item for item in found if draft.is_overdue(item)]
    for item in overdue:
        draft.check_held(item)
    found = [release(draft, item, State.EXPIRED, "", command) if item in overdue else item for item in found]
    open_holds = [item for item in found if item.state is State.RESERVED]
    if open_holds:
        return _sell(draft, command, open_holds)
    sold = tuple(item for item in found if item.state is State.COMMITTED)
    if sold:
        return Answer(sold)
    expired = [item for item in found if item.state is State.EXPIRED]
    if len(expired) == 1 and command.reacquire:
        return _reacquire(draft, command, expired[0])
    return refusals.closed(expired[-1] if expired else found[-1])


def _sell(draft: Draft, command: Commit, holds: list[Reservation]) -> Answer | Refusal:
    """Commit the open `holds`, or as much of them as the command names, and release the rest."""
    for hold in holds:
        draft.check_held(hold)
    wanted = {line.key: line.quantity for line in command.lines} if command.lines else None
    if wanted is not None and (shortages := _beyond_held(command.lines, holds)):
        return refusals.insufficient(shortages)
    return Answer(tuple(_sell_one(draft, command, hold, _take(hold, wanted)) for hold in holds))


def _sell_one(draft: Draft, command: Commit, hold: Reservation, sold: dict[LevelKey, int]) -> Reservation:
    if not any(sold.values()):
        return release(draft, hold, State.CANCELLED, "not part of the commit", command)
    cause = draft.cause(command, hold)
    for line in hold.lines:
        quantity = sold[line.key]
        rest = line.quantity - quantity
        if quantity:
            draft.move(line.key, MovementType.COMMITTED, quantity, -quantity, -quantity, cause)
        if rest:
            draft.move(line.key, MovementType.RELEASED, rest, 0, -rest, cause)
    lines = tuple(_replace(line, committed_quantity=sold[line.key]) for line in hold.lines)
    committed = _replace(hold, state=State.COMMITTED, closed_at=draft.instant, lines=lines)
    draft.reservations[committed.reservation_id] = committed
    draft.tell_reservation(cause, "committed", committed)
    return committed


def _reacquire(draft: Draft, command: Commit, expired: Reservation) -> Answer | Refusal:
    """Take the stock of an expired hold again and sell it, in one step and with one event."""
    wanted = {line.key: line.quantity for line in command.lines} if command.lines else None
    if wanted is not None and (shortages := _beyond_held(command.lines, [expired])):
        return refusals.insufficient(shortages)
    sold = _take(expired, wanted)
    if any(quantity > draft.levels[key].available for key, quantity in sold.items()):
        return refusals.closed(expired)
    draft.follow_reservation(expired)
    draft.check_ledgers(expired.lines)
    cause = draft.cause(command, expired)
    for key, quantity in sold.items():
        if quantity:
            draft.move(key, MovementType.RESERVED, quantity, 0, quantity, cause)
            draft.move(key, MovementType.COMMITTED, quantity, -quantity, -quantity, cause)
    lines = tuple(_replace(line, committed_quantity=sold[line.key]) for line in expired.lines)
    committed = _replace(expired, state=State.COMMITTED, closed_at=draft.instant, lines=lines)
    draft.reservations[committed.reservation_id] = committed
    draft.tell_reservation(cause, "committed", committed)
    return Answer((committed,))


def _take(hold: Reservation, wanted: dict[LevelKey, int] | None) -> dict[LevelKey, int]:
    """How much of each line of `hold` is sold; what is taken is subtracted from `wanted` (None: all)."""
    sold: dict[LevelKey, int] = {}
    for line in hold.lines:
        quantity = line.quantity if wanted is None else min(line.quantity, wanted.get(line.key, 0))
        sold[line.key] = quantity
        if wanted is not None and quantity:
            wanted[line.key] -= quantity
    return sold


def _beyond_held(lines: Iterable[Line], holds: Iterable[Reservation]) -> tuple[Shortage, ...]:
    """The lines that ask for more than `holds` hold together."""
    held: dict[LevelKey, int] = {}
    for hold in holds:
        for line in hold.lines:
            held[line.key] = held.get(line.key, 0) + line.quantity
    return tuple(
        Shortage(line.product_id, line.warehouse_id, line.quantity, held.get(line.key, 0))
        for line in lines
        if line.quantity > held.get(line.key, 0)
    )
