"""What a batch has to look up and to lock. Pure."""

from collections.abc import Iterable

import msgspec

from warehouse.commands import (
    Cancel,
    ChangeStock,
    Command,
    Commit,
    CountStock,
    Expire,
    Extend,
    Reserve,
    decode_answer,
)
from warehouse.records import LevelKey, StoredAnswer


class Plan(msgspec.Struct):
    """The keys of what a batch has to look up.

    Attributes:
        orders: whose latest reservation's number matters; `orders_with_holds`: those whose holds are meant.
        requests: request ids that may have been answered; `reserve_requests`: those whose holds are to be cancelled.
        holds: the reservations of `orders_with_holds`, oldest first, once they are known.
    """

    levels: set[LevelKey] = msgspec.field(default_factory=set)
    reservations: set[str] = msgspec.field(default_factory=set)
    orders: set[str] = msgspec.field(default_factory=set)
    orders_with_holds: set[str] = msgspec.field(default_factory=set)
    requests: set[str] = msgspec.field(default_factory=set)
    reserve_requests: set[str] = msgspec.field(default_factory=set)
    holds: dict[str, list[str]] = msgspec.field(default_factory=dict)

    def is_overtaken_by(self, answers: Iterable[StoredAnswer]) -> bool:
        """Whether a Reserve that is to be cancelled took a hold that was not there yet when it was looked for."""
        return any(
            reservation.reservation_id not in self.reservations
            for stored in answers
            if stored.request_id in self.reserve_requests
            for reservation in decode_answer(stored.answer).reservations
        )


def plan_of(commands: Iterable[Command]) -> Plan:
    """What `commands` are about, as far as they say so themselves."""
    plan = Plan()
    for command in commands:
        if command.request_id:
            plan.requests.add(command.request_id)
        match command:
            case Reserve():
                plan.orders.add(command.order_id)
                plan.levels.update(line.key for line in command.lines)
            case ChangeStock() | CountStock():
                plan.levels.add((command.product_id, command.warehouse_id))
            case Extend() | Expire():
                plan.reservations.add(command.reservation_id)
            case Commit() | Cancel():
                _plan_target(plan, command)
    return plan


def _plan_target(plan: Plan, command: Commit | Cancel) -> None:
    if command.reservation_id:
        plan.reservations.add(command.reservation_id)
    elif command.order_id:
        plan.orders.add(command.order_id)
        plan.orders_with_holds.add(command.order_id)
    elif isinstance(command, Cancel):
        plan.requests.add(command.reserve_request_id)
        plan.reserve_requests.add(command.reserve_request_id)


def line_count(command: Command) -> int:
    """How much of a transaction a command takes."""
    return len(command.lines) if isinstance(command, Reserve | Commit) else 1
