"""The rows as they will be: what the commands of a batch change, and write down, one after the other."""

from collections.abc import Iterable

import msgspec

from warehouse.stock import refusals
from warehouse.stock.commands import (
    Answer,
    Cancel,
    Command,
    Commit,
    CorruptedLedger,
    Line,
    Outcome,
    decode_answer,
    encode_answer,
)
from warehouse.stock.events import describe_level, describe_reservation
from warehouse.stock.records import (
    Event,
    HeldLine,
    Level,
    LevelKey,
    Movement,
    MovementType,
    Reservation,
    State,
    StoredAnswer,
    uuid7,
)
from warehouse.stock.refusals import Refusal
from warehouse.stock.sizes import HOLDS_BYTES_MAX, holds_bytes
from warehouse.stock.snapshot import Decision, Order, Stock

_encode = msgspec.json.Encoder().encode
NEW_ORDER = Order()


class Cause(msgspec.Struct, frozen=True):
    """What all movements of one change have in common."""

    event_id: str
    actor: str
    correlation_id: str
    traceparent: str
    reference: str
    notes: str = ""


class Draft:
    """The working state of one call of `decide`; what it was given is never changed.

    Attributes:
        now: the database's time, which decides what is overdue and when a new hold expires.
        instant: when what the present command does is written to have happened: later than all that it follows
            (`follow`), so that ledgers and ids never go backwards, even where the database's clock does.
    """

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.now = stock.now
        self.instant = stock.now
        self.levels = dict(stock.levels)
        self.reservations = dict(stock.reservations)
        self.orders = dict(stock.orders)
        self.answers = dict(stock.answers)
        self.new_answers: list[StoredAnswer] = []
        self.movements: list[Movement] = []
        self.events: list[Event] = []
        self._ids = 0

    def decision(self, outcomes: list[Outcome]) -> Decision:
        """Sort what has changed into the rows to insert and the rows to update."""
        before, held = self.stock.levels, self.stock.reservations
        return Decision(
            outcomes=outcomes,
            new_levels=[level for key, level in self.levels.items() if key not in before],
            changed_levels=[level for key, level in self.levels.items() if before.get(key, level) is not level],
            new_reservations=[item for key, item in self.reservations.items() if key not in held],
            changed_reservations=[item for key, item in self.reservations.items() if held.get(key, item) is not item],
            movements=self.movements,
            events=self.events,
            answers=self.new_answers,
        )

    # ---------------------------------------------------------------- what there is

    def too_large(self, command: Commit | Cancel, found: list[Reservation]) -> Refusal | None:
        """The refusal of a command by order whose answer could not be sent: asked before it has an effect."""
        if not command.order_id:
            return None
        reason = len(command.reason) if isinstance(command, Cancel) else 0
        sizes = (
            (len(item.lines), len(item.order_id) + len(item.correlation_id) + max(reason, len(item.reason)))
            for item in found
        )
        return refusals.answer_too_large(command.order_id, len(found)) if holds_bytes(sizes) > HOLDS_BYTES_MAX else None

    def targets(self, command: Commit | Cancel) -> list[Reservation]:
        """The reservations that the command is about, oldest first."""
        if command.order_id:
            ids: Iterable[str] = self.orders.get(command.order_id, NEW_ORDER).reservation_ids
        elif isinstance(command, Cancel) and command.reserve_request_id:
            stored = self.answers[command.reserve_request_id]
            # Only the Reserve that made a reservation was answered at the instant of its making.
            made = [item for item in decode_answer(stored.answer).reservations if item.created_at == stored.created_at]
            ids = [item.reservation_id for item in made]
        else:
            ids = [command.reservation_id]
        return [self.reservations[key] for key in ids if key in self.reservations]

    def is_overdue(self, reservation: Reservation) -> bool:
        """Whether it is a hold whose time is over."""
        return reservation.state is State.RESERVED and reservation.expires_at <= self.now

    def begin(self) -> None:
        """A command that follows nothing yet."""
        self.instant = self.now

    def follow(self, instant: int) -> None:
        """What happens now happens after this."""
        if instant >= self.instant:
            self.instant = instant + 1

    def follow_reservation(self, reservation: Reservation) -> None:
        """What happens now happens after all that happened to a reservation."""
        self.follow(reservation.created_at)
        if reservation.closed_at is not None:
            self.follow(reservation.closed_at)

    def check_held(self, reservation: Reservation) -> None:
        """Before what the reservation holds is changed: that follows what happened to it and its levels.

        Raises: CorruptedLedger, if the levels do not count what it holds, or can't count it back.
        """
        self.follow_reservation(reservation)
        self.check_ledgers(reservation.lines)
        for line in reservation.lines:
            level = self.levels.get(line.key)
            if level is None or level.reserved < line.quantity or level.on_hand < line.quantity:
                raise CorruptedLedger(
                    f"reservation {reservation.reservation_id} holds {line.quantity} of product {line.product_id} in "
                    f"warehouse {line.warehouse_id}, where the stock level counts less: run the audit with --repair"
                )

    def check_ledgers(self, lines: Iterable[Line | HeldLine]) -> None:
        """As `check_ledger` for each line's level. Raises: CorruptedLedger."""
        for line in lines:
            self.check_ledger(line.key)

    def check_ledger(self, key: LevelKey) -> None:
        """Before a level is changed: that follows all that happened to it.

        Raises: CorruptedLedger, if its next movement has its place in the ledger taken.
        """
        level = self.levels.get(key)
        if level is not None:
            self.follow(level.updated_at)
        if key in self.stock.torn:
            raise CorruptedLedger(
                f"the ledger of product {key[0]} in warehouse {key[1]} goes on behind the version of its stock level: "
                "run the audit with --repair"
            )

    def level_not_found(self, key: LevelKey) -> Refusal:
        """Why there is no such level: its product, its warehouse or only the level is missing."""
        return refusals.level_not_found(key, self.stock.products, self.stock.warehouses)

    # ---------------------------------------------------------------- what changes

    def add(self, reservation: Reservation) -> None:
        """A new reservation, the latest one of its order."""
        order = self.orders.get(reservation.order_id, NEW_ORDER)
        self.reservations[reservation.reservation_id] = reservation
        self.orders[reservation.order_id] = Order(
            reservation.order_sequence,
            reservation.closed_at if reservation.is_tombstone else None,
            (*order.reservation_ids, reservation.reservation_id),
        )

    def move(self, key: LevelKey, kind: MovementType, quantity: int, on_hand: int, reserved: int, cause: Cause) -> None:
        """Change a level by (`on_hand`, `reserved`) and write that into its ledger."""
        old = self.levels[key]
        new = Level(
            old.product_id,
            old.warehouse_id,
            old.on_hand + on_hand,
            old.reserved + reserved,
            old.version + 1,
            old.created_at,
            self.instant,
        )
        self.levels[key] = new
        self.movements.append(
            Movement(
                old.product_id,
                old.warehouse_id,
                new.version,
                kind,
                quantity,
                old.on_hand,
                new.on_hand,
                old.reserved,
                new.reserved,
                cause.reference,
                cause.notes,
                cause.actor,
                cause.correlation_id,
                cause.event_id,
                self.instant,
            )
        )

    def cause(self, command: Command, reservation: Reservation) -> Cause:
        """What the movements of a change to `reservation` have in common, and the id of its event."""
        correlation_id = command.correlation_id or reservation.correlation_id
        reference = reservation.reservation_id
        return Cause(self.next_id(), command.actor, correlation_id, command.traceparent, reference)

    def tell_reservation(self, cause: Cause, verb: str, reservation: Reservation) -> None:
        """Write the event of a change to `reservation`, with the levels as they are after it."""
        levels = [describe_level(self.levels[line.key]) for line in reservation.lines]
        data = {"reservation": describe_reservation(reservation), "levels": levels}
        self.emit(cause, f"warehouse.reservation.{verb}.v1", reservation.order_id, data)

    def emit(self, cause: Cause, kind: str, subject: str, data: object) -> None:
        """Write an event; `data` becomes its JSON."""
        text = _encode(data).decode()
        self.events.append(
            Event(cause.event_id, kind, subject, cause.correlation_id, self.instant, cause.traceparent, text)
        )

    def store(self, request_id: str, hash_of_request: str, answer: Answer) -> None:
        """Keep what a request id was answered, for replays."""
        stored = StoredAnswer(request_id, hash_of_request, self.instant, encode_answer(answer))
        self.answers[request_id] = stored
        self.new_answers.append(stored)

    def next_id(self) -> str:
        """An id for a reservation or an event; they sort in the order in which they were made."""
        self._ids += 1
        return uuid7(self.instant, self._ids, self.stock.entropy)
