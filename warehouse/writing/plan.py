"""What a batch has to look up and to lock. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from warehouse.stock.commands import (
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
from warehouse.stock.records import LevelKey, StoredAnswer

RowKey = LevelKey | str | tuple[str, int]
"""A row that somebody else may have locked: a level, a reservation by its id, a PRODUCT or WAREHOUSE by its id."""
PRODUCT = "product"
WAREHOUSE = "warehouse"


class Plan(msgspec.Struct):
    """The keys of what a batch has to look up.

    Attributes:
        orders: whose latest reservation's number matters; `orders_with_holds`: those whose holds are meant.
        requests: request ids that may have been answered; `reserve_requests`: those whose holds are to be cancelled.
        opened: those of `levels` that come into being if they are missing.
        holds: the reservations of `orders_with_holds`, oldest first, once they are known.
        made: the reservations that were made under `reserve_requests`, once they are known.
        lines: the stock levels of the reservations' lines, once they are known.
    """

    levels: set[LevelKey] = msgspec.field(default_factory=set)
    reservations: set[str] = msgspec.field(default_factory=set)
    orders: set[str] = msgspec.field(default_factory=set)
    orders_with_holds: set[str] = msgspec.field(default_factory=set)
    requests: set[str] = msgspec.field(default_factory=set)
    reserve_requests: set[str] = msgspec.field(default_factory=set)
    opened: set[LevelKey] = msgspec.field(default_factory=set)
    holds: dict[str, list[str]] = msgspec.field(default_factory=dict)
    made: dict[str, list[str]] = msgspec.field(default_factory=dict)
    lines: dict[str, list[LevelKey]] = msgspec.field(default_factory=dict)

    @property
    def must_locate(self) -> bool:
        """Whether there are reservations meant whose stock levels the commands do not name."""
        return bool(self.reservations or self.orders_with_holds or self.reserve_requests)

    def locate(self, holds: Iterable[tuple[str, str]], answers: Iterable[StoredAnswer]) -> None:
        """Take in which reservations are meant: (order, reservation) oldest first, and what requests were answered."""
        for order_id, reservation_id in holds:
            self.holds.setdefault(order_id, []).append(reservation_id)
            self.reservations.add(reservation_id)
        for stored in answers:
            made = decode_answer(stored.answer).reservations
            self.made[stored.request_id] = [reservation.reservation_id for reservation in made]
            self.reservations.update(self.made[stored.request_id])
            self.levels.update(line.key for reservation in made for line in reservation.lines)

    def rows_of(self, command: Command) -> Iterator[RowKey]:
        """The rows that one of the commands needs to have locked."""
        match command:
            case Reserve():
                yield from (line.key for line in command.lines)
            case ChangeStock() | CountStock():
                yield (command.product_id, command.warehouse_id)
                if (command.product_id, command.warehouse_id) in self.opened:
                    yield (PRODUCT, command.product_id)
                    yield (WAREHOUSE, command.warehouse_id)
            case _:
                for reservation_id in self._meant_by(command):
                    yield reservation_id
                    yield from self.lines.get(reservation_id, ())

    def _meant_by(self, command: Commit | Cancel | Extend | Expire) -> Iterable[str]:
        if command.reservation_id:
            return (command.reservation_id,)
        if isinstance(command, Cancel) and command.reserve_request_id:
            return self.made.get(command.reserve_request_id, ())
        return self.holds.get(command.order_id, ()) if isinstance(command, Commit | Cancel) else ()

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
                key = (command.product_id, command.warehouse_id)
                plan.levels.add(key)
                if isinstance(command, CountStock) or command.quantity > 0:
                    plan.opened.add(key)
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


def names_of(command: Command) -> list[tuple[str, str]]:
    """What a command is called: two that share a name were meant to have their effects in the order they came in."""
    names = [("request", command.request_id)]
    if isinstance(command, Reserve | Commit | Cancel):
        names.append(("order", command.order_id))
    if isinstance(command, Cancel):
        names.append(("request", command.reserve_request_id))
    return [name for name in names if name[1]]
