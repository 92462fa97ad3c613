"""What happens to stock: the pure core of the warehouse.

`decide(stock, commands)` takes what a transaction has locked and read, applies the commands one after the
other, and returns an outcome for each and the rows to write. It does no I/O, reads no clock and draws no
random number; any cut of a command sequence into batches gives the same outcomes and the same end state.

A command is refused, or fails with CorruptedLedger, before it has changed anything: one bad command never spoils
its batch-mates. The one effect a refusal may leave is the end of a hold whose time was over.

Where the database's clock steps back, what is overdue, and for how long a new hold lasts, goes by the clock as it is:
for a while nothing expires that would have, and nothing is lost by that. What is *written* to have happened, and the
ids made from that, come after what is written of the same levels and reservations.
"""

from collections.abc import Sequence

from warehouse.stock import refusals
from warehouse.stock.commands import (
    Answer,
    CallerCommand,
    Cancel,
    ChangeStock,
    Command,
    Commit,
    CorruptedLedger,
    CountStock,
    Expire,
    Extend,
    Outcome,
    Reserve,
    decode_answer,
    request_hash,
)
from warehouse.stock.draft import Draft
from warehouse.stock.holding import extend, reserve
from warehouse.stock.keeping import change_stock, count_stock
from warehouse.stock.records import StoredAnswer
from warehouse.stock.refusals import Refusal
from warehouse.stock.releasing import cancel, expire
from warehouse.stock.selling import commit
from warehouse.stock.snapshot import Decision, Order, Stock


def decide(stock: Stock, commands: Sequence[Command]) -> Decision:
    """Apply `commands` in order. See the module's text for what is promised."""
    draft = Draft(stock)
    return draft.decision([_apply(draft, command) for command in commands])


def _apply(draft: Draft, command: Command) -> Outcome:
    """Replay the command if its request id is known, otherwise let it act."""
    draft.begin()
    try:
        if isinstance(command, Expire):
            return expire(draft, command)
        hash_of_request = request_hash(command)
        known = draft.answers.get(command.request_id)
        if known is not None:
            return _replay(known, command, hash_of_request)
        outcome = _act(draft, command)
    except CorruptedLedger as drift:
        return drift
    if isinstance(outcome, Answer):
        draft.store(command.request_id, hash_of_request, outcome)
    return outcome


def _act(draft: Draft, command: CallerCommand) -> Answer | Refusal:
    match command:
        case Reserve():
            return reserve(draft, command)
        case Commit():
            return commit(draft, command)
        case Cancel():
            return cancel(draft, command)
        case Extend():
            return extend(draft, command)
        case ChangeStock():
            return change_stock(draft, command)
        case CountStock():
            return count_stock(draft, command)


def _replay(known: StoredAnswer, command: Command, hash_of_request: str) -> Outcome:
    if known.request_hash == hash_of_request:
        return decode_answer(known.answer)
    if isinstance(command, Reserve):
        fenced_at = decode_answer(known.answer).fenced_at
        if fenced_at is not None:
            return refusals.reserve_cancelled(command.order_id, fenced_at)
    return refusals.request_id_reused(command.request_id)


__all__ = ["Decision", "Order", "Stock", "decide"]
