"""Decides whether an order agrees with what the warehouse has for it, and what to do where it does not. No I/O.

paid <=> committed, pending <=> held, cancelled or rejected <=> nothing held; what is still to be done is written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from order_gateway.audit.rows import Row
from order_gateway.gateway.port import Hold, HoldState, Outcome
from order_gateway.lifecycle import Status, Step, Stock, is_open, is_settled

_HELD, _SOLD = HoldState.RESERVED, HoldState.COMMITTED
_MICROSECONDS = 1_000_000


class Problem(StrEnum):
    """Kinds of disagreement."""

    FORGOTTEN_STEP = "forgotten_step"
    OLDER_HOLD = "older_hold"
    OLDER_PAYMENT = "older_payment"
    STRANGE_HOLD = "strange_hold"
    NOT_HELD = "not_held"
    SOLD_BUT_UNPAID = "sold_but_unpaid"
    STILL_HELD = "still_held"
    NOT_SOLD = "not_sold"
    SOLD_BUT_ENDED = "sold_but_ended"
    NOT_RETURNED = "not_returned"


class Mending(StrEnum):
    """What the repair does."""

    WRITE_STEPS_DOWN = "its steps are written down again, and done"
    CANCEL = "it is cancelled"
    TAKE_AGAIN = "its stock is taken again under its own request id; if that is gone, it is cancelled"
    SELL_AGAIN = "its stock is taken and sold again under its own request ids; if that is gone, it is refunded"
    SELL = "what it owns is sold; if that can't be done any more, it is refunded"
    REPEAT_PAYMENT = "the payment provider is asked again under its own key, and the order is paid as it answers"
    RELEASE = "what it owns is given back"
    GIVE_BACK = "its units are put back on hand under its own request ids"
    NOTHING = "a person has to look: nothing is done, since it can't be proved what is the order's"


@dataclass(frozen=True, slots=True)
class Owned:
    """What the warehouse says an order owns.

    Attributes:
        reserve: what became of its RESERVE.
        give_backs: what became of each call of its GIVE_BACK, where it ought to have done that.
        commit: what became of its COMMIT; asked for only where it matters.
    """

    reserve: Outcome
    give_backs: tuple[Outcome, ...] = ()
    commit: Outcome | None = None

    def all_in(self, state: HoldState) -> list[Hold]:
        """Its holds in a state."""
        return [hold for hold in self.reserve.holds if hold.state is state]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What is wrong with an order."""

    problem: Problem
    text: str


def disagreement(row: Row, owned: Owned | None, tolerance_seconds: float) -> Disagreement | None:
    """What is wrong with an order; None: nothing.

    Args:
        owned: None: the warehouse could not be asked.
        tolerance_seconds: how far the clocks of the two databases may differ.
    """
    if row.payment_began_at is not None and row.payment_began_at < row.created_at:
        return Disagreement(Problem.OLDER_PAYMENT, "has a payment that is older than itself")
    if owned is not None and (found := _not_its_own(row, owned, tolerance_seconds)):
        return found
    state = row.state
    if not is_settled(state):
        forgotten = [step for step in Step if is_open(state, step) and step not in row.open_steps]
        text = f"waits for {', '.join(forgotten)}, which nobody is going to do"
        return Disagreement(Problem.FORGOTTEN_STEP, text) if forgotten else None
    return None if owned is None else _unsettled_account(row, owned)


def _not_its_own(row: Row, owned: Owned, tolerance_seconds: float) -> Disagreement | None:
    """A hold that was made for an earlier order of the same number and keys, or that is somebody else's."""
    oldest_allowed = row.created_at / _MICROSECONDS - tolerance_seconds
    for hold in owned.reserve.holds:
        if int(hold.created_at.timestamp()) + 1 < oldest_allowed:
            text = f"has a hold that is older than itself: {hold.reservation_id} of {hold.created_at:%F %T} UTC"
            return Disagreement(Problem.OLDER_HOLD, text)
    own = {hold.reservation_id for hold in owned.reserve.holds}
    if own and not row.reservation_ids <= own:
        strange = ", ".join(sorted(row.reservation_ids - own))
        return Disagreement(Problem.STRANGE_HOLD, f"shows a hold that it did not ask for: {strange}")
    return None


def _unsettled_account(row: Row, owned: Owned) -> Disagreement | None:
    state = row.state
    held, sold = owned.all_in(_HELD), owned.all_in(_SOLD)
    if state.stock is Stock.HELD:
        if sold:
            return Disagreement(Problem.SOLD_BUT_UNPAID, "waits for its payment, but is sold")
        return None if held else Disagreement(Problem.NOT_HELD, f"is not held: {_what_became(owned)}")
    if held:
        return Disagreement(Problem.STILL_HELD, f"is {state.status}, but still held")
    if state.stock is Stock.COMMITTED and not sold:
        return Disagreement(Problem.NOT_SOLD, f"is {state.status}, but not sold: {_what_became(owned)}")
    if state.stock is Stock.FREE and sold:
        return Disagreement(Problem.SOLD_BUT_ENDED, f"is {state.status}, but sold")
    if state.stock is Stock.RETURNED and sold and not all(call.is_known for call in owned.give_backs):
        return Disagreement(Problem.NOT_RETURNED, f"is {state.status} and was sold, but its units were not put back")
    return None


def _what_became(owned: Owned) -> str:
    """Of its hold, which is neither held nor sold."""
    if owned.reserve.holds:
        return f"its hold is {owned.reserve.holds[0].state.lower()}"
    return "it never got a hold" if owned.reserve.is_known else "the warehouse has never heard of it"


def mending(row: Row, problem: Problem, owned: Owned | None) -> Mending:
    """What the repair may do about a disagreement."""
    match problem:
        case Problem.FORGOTTEN_STEP:
            return Mending.WRITE_STEPS_DOWN
        case Problem.NOT_HELD:
            return Mending.TAKE_AGAIN if owned and not owned.reserve.is_known else Mending.CANCEL
        case Problem.SOLD_BUT_UNPAID:
            # Only this service uses that key, and only once the money was taken.
            was_paid = owned is not None and owned.commit is not None and owned.commit.is_known
            return Mending.REPEAT_PAYMENT if was_paid else Mending.NOTHING
        case Problem.STILL_HELD:
            return Mending.SELL if row.state.stock is Stock.COMMITTED and not _is_sold(owned) else Mending.RELEASE
        case Problem.NOT_SOLD:
            if owned and not owned.reserve.is_known:
                return Mending.SELL_AGAIN
            return Mending.SELL
        case Problem.SOLD_BUT_ENDED:
            return Mending.GIVE_BACK if row.state.status is Status.CANCELLED else Mending.NOTHING
        case Problem.NOT_RETURNED:
            return Mending.GIVE_BACK
        case Problem.OLDER_HOLD | Problem.OLDER_PAYMENT | Problem.STRANGE_HOLD:
            return Mending.NOTHING


def _is_sold(owned: Owned | None) -> bool:
    return owned is not None and bool(owned.all_in(_SOLD))


def request_ids(row: Row, installation: str) -> Sequence[str]:
    """What the warehouse is asked about an order: its RESERVE, and its GIVE_BACK where that is said to be done."""
    name = row.name(installation)
    return [
        name.request_id(Step.RESERVE),
        *(name.request_id(Step.GIVE_BACK, position) for position in range(row.lines)),
    ]
