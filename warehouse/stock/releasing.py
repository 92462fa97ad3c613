"""Giving back what is held. Pure."""

import msgspec

from warehouse.stock import refusals
from warehouse.stock.commands import Answer, Cancel, Command, Expire, decode_answer
from warehouse.stock.draft import Draft
from warehouse.stock.records import MovementType, Reservation, State
from warehouse.stock.refusals import Refusal

_replace = msgspec.structs.replace


def cancel(draft: Draft, command: Cancel) -> Answer | Refusal:
    """Give back the open holds that are meant; what nobody has seen yet is fenced off."""
    if command.reserve_request_id == command.request_id:
        return refusals.request_id_reused(command.request_id)
    if command.reserve_request_id and command.reserve_request_id not in draft.answers:
        draft.store(command.reserve_request_id, "0" * 32, Answer(fenced_at=draft.instant))
        return Answer()
    found = draft.targets(command)
    if not found:
        return _cancel_unseen(draft, command)
    if refusal := draft.too_large(command, found):
        return refusal
    open_holds = [item for item in found if item.state is State.RESERVED]
    sold = [item for item in found if item.state is State.COMMITTED]
    if sold and not open_holds:
        return refusals.closed(sold[-1])
    for hold in open_holds:
        draft.check_held(hold)
    for hold in open_holds:
        if draft.is_overdue(hold):
            release(draft, hold, State.EXPIRED, "", command)
        else:
            release(draft, hold, State.CANCELLED, command.reason, command)
    return Answer(tuple(draft.reservations[item.reservation_id] for item in found))


def _cancel_unseen(draft: Draft, command: Cancel) -> Answer | Refusal:
    if command.reserve_request_id:
        fenced = decode_answer(draft.answers[command.reserve_request_id].answer).fenced_at is not None
        return Answer() if fenced else refusals.reservation_not_found("", command.reserve_request_id)
    if not command.order_id:
        return refusals.reservation_not_found(command.reservation_id)
    tombstone = Reservation(
        reservation_id=draft.next_id(),
        order_id=command.order_id,
        order_sequence=1,
        state=State.CANCELLED,
        expires_at=draft.instant,
        created_at=draft.instant,
        closed_at=draft.instant,
        reason=command.reason,
        correlation_id=command.correlation_id,
        lines=(),
    )
    draft.add(tombstone)
    return Answer((tombstone,))


def expire(draft: Draft, command: Expire) -> Answer:
    """End a hold if its time is over."""
    reservation = draft.reservations.get(command.reservation_id)
    if reservation is None or not draft.is_overdue(reservation):
        return Answer()
    draft.check_held(reservation)
    return Answer((release(draft, reservation, State.EXPIRED, "", command),))


def release(draft: Draft, hold: Reservation, state: State, reason: str, command: Command) -> Reservation:
    """Give back all that `hold` holds and close it as `state`."""
    cause = draft.cause(command, hold)
    kind = MovementType.EXPIRED if state is State.EXPIRED else MovementType.RELEASED
    for line in hold.lines:
        draft.move(line.key, kind, line.quantity, 0, -line.quantity, cause)
    closed = _replace(hold, state=state, closed_at=draft.instant, reason=reason)
    draft.reservations[closed.reservation_id] = closed
    draft.tell_reservation(cause, state.lower(), closed)
    return closed
