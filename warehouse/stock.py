"""What happens to stock: the pure core of the warehouse.

`decide(stock, commands)` takes what a transaction has locked and read, applies the commands one after the
other, and returns an outcome for each and the rows to write. It does no I/O, reads no clock and draws no
random number; any cut of a command sequence into batches gives the same outcomes and the same end state.

A command is refused, or fails with StockDrift, before it has changed anything: one bad command never spoils
its batch-mates. The one effect a refusal may leave is the end of a hold whose time was over.
"""

from collections.abc import Iterable, Sequence

import msgspec

from warehouse import refusals
from warehouse.commands import (
    Answer,
    CallerCommand,
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
    StockCommand,
    StockDrift,
    decode_answer,
    encode_answer,
    fingerprint,
)
from warehouse.events import describe_level, describe_movement, describe_reservation
from warehouse.records import (
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
from warehouse.refusals import Reason, Refusal, Shortage

_replace = msgspec.structs.replace
_astuple = msgspec.structs.astuple
_encode = msgspec.json.Encoder().encode


class Order(msgspec.Struct, frozen=True):
    """What is known of an order: its latest reservation's number, its tombstone, and the ids asked for.

    `reservation_ids`, oldest first, are there only if a command acts on the order's holds.
    """

    last_sequence: int = 0
    cancelled_at: int | None = None
    reservation_ids: tuple[str, ...] = ()


_NEW_ORDER = Order()


class Stock(msgspec.Struct, frozen=True):
    """What a batch stands on: locked rows, known request ids, the time, and 48 random bits."""

    now: int
    entropy: int
    levels: dict[LevelKey, Level] = {}
    reservations: dict[str, Reservation] = {}
    orders: dict[str, Order] = {}
    answers: dict[str, StoredAnswer] = {}
    products: frozenset[int] = frozenset()
    """Of the products whose level is missing: those that exist."""
    warehouses: frozenset[int] = frozenset()
    """Of the warehouses whose level is missing: those that exist."""
    torn: frozenset[LevelKey] = frozenset()
    """Levels whose ledger already has rows where their next movement would go: somebody changed rows by hand."""


class Decision(msgspec.Struct, frozen=True):
    """An outcome per command, in order, and the rows that make them true."""

    outcomes: list[Outcome]
    new_levels: list[Level]
    changed_levels: list[Level]
    new_reservations: list[Reservation]
    changed_reservations: list[Reservation]
    movements: list[Movement]
    events: list[Event]
    answers: list[StoredAnswer]

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.movements or self.answers or self.changed_reservations or self.new_reservations)


class _Cause(msgspec.Struct, frozen=True):
    """What all movements of one change have in common."""

    event_id: str
    actor: str
    correlation_id: str
    traceparent: str
    reference: str
    notes: str = ""


def decide(stock: Stock, commands: Sequence[Command]) -> Decision:
    """Apply `commands` in order. See the module's text for what is promised."""
    batch = _Batch(stock)
    outcomes = [batch.apply(command) for command in commands]
    return batch.decision(outcomes)


class _Batch:
    """The working state of one call of `decide`; what it was given is never changed."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.now = stock.now
        self.levels = dict(stock.levels)
        self.reservations = dict(stock.reservations)
        self.orders = dict(stock.orders)
        self.answers = dict(stock.answers)
        self.new_answers: list[StoredAnswer] = []
        self.movements: list[Movement] = []
        self.events: list[Event] = []
        self._ids = 0

    def apply(self, command: Command) -> Outcome:
        """Replay the command if its request id is known, otherwise let it act."""
        if isinstance(command, Expire):
            return self._expire_if_due(command)
        print_of_command = fingerprint(command)
        known = self.answers.get(command.request_id)
        if known is not None:
            return _replay(known, command, print_of_command)
        try:
            outcome = self._act(command)
        except StockDrift as drift:
            return drift
        if isinstance(outcome, Answer):
            self._store(command.request_id, print_of_command, outcome)
        return outcome

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

    def _act(self, command: CallerCommand) -> Answer | Refusal:
        match command:
            case Reserve():
                return self._reserve(command)
            case Commit():
                return self._commit(command)
            case Cancel():
                return self._cancel(command)
            case Extend():
                return self._extend(command)
            case ChangeStock():
                return self._change_stock(command)
            case CountStock():
                return self._count_stock(command)

    # ---------------------------------------------------------------- holding

    def _reserve(self, command: Reserve) -> Answer | Refusal:
        order = self.orders.get(command.order_id, _NEW_ORDER)
        if order.cancelled_at is not None:
            return refusals.reserve_cancelled(command.order_id, order.cancelled_at)
        for line in command.lines:
            if line.key not in self.levels:
                return self._level_not_found(line.key)
        lines, shortages = self._fill(command.lines)
        if shortages and not (command.allow_partial and lines):
            return refusals.insufficient(shortages)
        self._check_ledgers(command.lines)
        reservation = self._open(command, order, lines)
        cause = self._cause(command, reservation)
        for held in lines:
            self._move(held.key, MovementType.RESERVED, held.quantity, 0, held.quantity, cause)
        self._tell_reservation(cause, "reserved", reservation)
        return Answer((reservation,))

    def _open(self, command: Reserve, order: Order, lines: tuple[HeldLine, ...]) -> Reservation:
        """A new RESERVED reservation of the order."""
        reservation = Reservation(
            reservation_id=self._next_id(),
            order_id=command.order_id,
            order_sequence=order.last_sequence + 1,
            state=State.RESERVED,
            expires_at=self.now + command.ttl,
            created_at=self.now,
            closed_at=None,
            reason="",
            correlation_id=command.correlation_id,
            lines=lines,
        )
        self._add(reservation)
        return reservation

    def _add(self, reservation: Reservation) -> None:
        order = self.orders.get(reservation.order_id, _NEW_ORDER)
        self.reservations[reservation.reservation_id] = reservation
        self.orders[reservation.order_id] = Order(
            reservation.order_sequence,
            reservation.closed_at if reservation.is_tombstone else None,
            (*order.reservation_ids, reservation.reservation_id),
        )

    def _fill(self, wanted: Iterable[Line]) -> tuple[tuple[HeldLine, ...], tuple[Shortage, ...]]:
        """What can be held of each line, and the lines that fall short."""
        lines, shortages = [], []
        for product_id, warehouse_id, quantity in map(_astuple, wanted):
            available = self.levels[product_id, warehouse_id].available
            if quantity > available:
                shortages.append(Shortage(product_id, warehouse_id, quantity, available))
            if available > 0:
                lines.append(HeldLine(product_id, warehouse_id, min(quantity, available), quantity))
        return tuple(lines), tuple(shortages)

    def _extend(self, command: Extend) -> Answer | Refusal:
        reservation = self.reservations.get(command.reservation_id)
        if reservation is None:
            return refusals.reservation_not_found(command.reservation_id)
        if self._is_overdue(reservation):
            self._check_held(reservation)
            reservation = self._release(reservation, State.EXPIRED, "", command)
        if reservation.state is not State.RESERVED:
            return refusals.closed(reservation)
        extended = _replace(reservation, expires_at=max(reservation.expires_at, self.now + command.ttl))
        self.reservations[extended.reservation_id] = extended
        self._tell_reservation(self._cause(command, extended), "extended", extended)
        return Answer((extended,))

    # ---------------------------------------------------------------- selling

    def _commit(self, command: Commit) -> Answer | Refusal:
        found = self._targets(command)
        if not found:
            return refusals.reservation_not_found(command.reservation_id, command.order_id)
        overdue = [item for item in found if self._is_overdue(item)]
        for item in overdue:
            self._check_held(item)
        found = [self._release(item, State.EXPIRED, "", command) if item in overdue else item for item in found]
        open_holds = [item for item in found if item.state is State.RESERVED]
        if open_holds:
            return self._sell(command, open_holds)
        sold = tuple(item for item in found if item.state is State.COMMITTED)
        if sold:
            return Answer(sold)
        expired = [item for item in found if item.state is State.EXPIRED]
        if len(expired) == 1 and command.reacquire:
            return self._reacquire(command, expired[0])
        return refusals.closed(expired[-1] if expired else found[-1])

    def _sell(self, command: Commit, holds: list[Reservation]) -> Answer | Refusal:
        """Commit the open `holds`, or as much of them as the command names, and release the rest."""
        for hold in holds:
            self._check_held(hold)
        wanted = {line.key: line.quantity for line in command.lines} if command.lines else None
        if wanted is not None and (shortages := _beyond_held(command.lines, holds)):
            return refusals.insufficient(shortages)
        return Answer(tuple(self._sell_one(command, hold, _take(hold, wanted)) for hold in holds))

    def _sell_one(self, command: Commit, hold: Reservation, sold: dict[LevelKey, int]) -> Reservation:
        if not any(sold.values()):
            return self._release(hold, State.CANCELLED, "not part of the commit", command)
        cause = self._cause(command, hold)
        for line in hold.lines:
            quantity = sold[line.key]
            rest = line.quantity - quantity
            if quantity:
                self._move(line.key, MovementType.COMMITTED, quantity, -quantity, -quantity, cause)
            if rest:
                self._move(line.key, MovementType.RELEASED, rest, 0, -rest, cause)
        lines = tuple(_replace(line, committed_quantity=sold[line.key]) for line in hold.lines)
        committed = _replace(hold, state=State.COMMITTED, closed_at=self.now, lines=lines)
        self.reservations[committed.reservation_id] = committed
        self._tell_reservation(cause, "committed", committed)
        return committed

    def _reacquire(self, command: Commit, expired: Reservation) -> Answer | Refusal:
        """Take the stock of an expired hold again and sell it, in one step and with one event."""
        wanted = {line.key: line.quantity for line in command.lines} if command.lines else None
        if wanted is not None and (shortages := _beyond_held(command.lines, [expired])):
            return refusals.insufficient(shortages)
        sold = _take(expired, wanted)
        if any(quantity > self.levels[key].available for key, quantity in sold.items()):
            return refusals.closed(expired)
        self._check_ledgers(expired.lines)
        cause = self._cause(command, expired)
        for key, quantity in sold.items():
            if quantity:
                self._move(key, MovementType.RESERVED, quantity, 0, quantity, cause)
                self._move(key, MovementType.COMMITTED, quantity, -quantity, -quantity, cause)
        lines = tuple(_replace(line, committed_quantity=sold[line.key]) for line in expired.lines)
        committed = _replace(expired, state=State.COMMITTED, closed_at=self.now, lines=lines)
        self.reservations[committed.reservation_id] = committed
        self._tell_reservation(cause, "committed", committed)
        return Answer((committed,))

    # ---------------------------------------------------------------- giving back

    def _cancel(self, command: Cancel) -> Answer | Refusal:
        if command.reserve_request_id and command.reserve_request_id not in self.answers:
            self._store(command.reserve_request_id, "0" * 32, Answer(fenced_at=self.now))
            return Answer()
        found = self._targets(command)
        if not found:
            return self._cancel_unseen(command)
        open_holds = [item for item in found if item.state is State.RESERVED]
        sold = [item for item in found if item.state is State.COMMITTED]
        if sold and not open_holds:
            return refusals.closed(sold[-1])
        for hold in open_holds:
            self._check_held(hold)
        for hold in open_holds:
            if self._is_overdue(hold):
                self._release(hold, State.EXPIRED, "", command)
            else:
                self._release(hold, State.CANCELLED, command.reason, command)
        return Answer(tuple(self.reservations[item.reservation_id] for item in found))

    def _cancel_unseen(self, command: Cancel) -> Answer | Refusal:
        if command.reserve_request_id:
            fenced = decode_answer(self.answers[command.reserve_request_id].answer).fenced_at is not None
            return Answer() if fenced else refusals.reservation_not_found("", "", command.reserve_request_id)
        if not command.order_id:
            return refusals.reservation_not_found(command.reservation_id)
        tombstone = Reservation(
            reservation_id=self._next_id(),
            order_id=command.order_id,
            order_sequence=1,
            state=State.CANCELLED,
            expires_at=self.now,
            created_at=self.now,
            closed_at=self.now,
            reason=command.reason,
            correlation_id=command.correlation_id,
            lines=(),
        )
        self._add(tombstone)
        return Answer((tombstone,))

    def _expire_if_due(self, command: Expire) -> Outcome:
        reservation = self.reservations.get(command.reservation_id)
        if reservation is None or not self._is_overdue(reservation):
            return Answer()
        try:
            self._check_held(reservation)
        except StockDrift as drift:
            return drift
        return Answer((self._release(reservation, State.EXPIRED, "", command),))

    def _release(self, hold: Reservation, state: State, reason: str, command: Command) -> Reservation:
        """Give back all that `hold` holds and close it as `state`."""
        cause = self._cause(command, hold)
        kind = MovementType.EXPIRED if state is State.EXPIRED else MovementType.RELEASED
        for line in hold.lines:
            self._move(line.key, kind, line.quantity, 0, -line.quantity, cause)
        closed = _replace(hold, state=state, closed_at=self.now, reason=reason)
        self.reservations[closed.reservation_id] = closed
        self._tell_reservation(cause, state.lower(), closed)
        return closed

    # ---------------------------------------------------------------- stock keeping

    def _change_stock(self, command: ChangeStock) -> Answer | Refusal:
        level = self.levels.get((command.product_id, command.warehouse_id))
        if level is None:
            if command.quantity < 0:
                return self._level_not_found((command.product_id, command.warehouse_id))
            if refusal := self._cannot_open_level(command):
                return refusal
        elif command.quantity < 0 and -command.quantity > level.available:
            short = Shortage(level.product_id, level.warehouse_id, -command.quantity, level.available)
            return refusals.insufficient((short,))
        return self._write_stock(command, command.type, abs(command.quantity), command.quantity)

    def _count_stock(self, command: CountStock) -> Answer | Refusal:
        level = self.levels.get((command.product_id, command.warehouse_id))
        if level is None and (refusal := self._cannot_open_level(command)):
            return refusal
        on_hand, reserved = (level.on_hand, level.reserved) if level else (0, 0)
        if command.reserved is not None and command.reserved != reserved:
            return refusals.reserved_mismatch(command.reserved, reserved)
        if command.on_hand < reserved:
            return refusals.insufficient(
                (Shortage(command.product_id, command.warehouse_id, reserved, command.on_hand),)
            )
        difference = command.on_hand - on_hand
        return self._write_stock(command, MovementType.ADJUSTMENT, difference, difference)

    def _write_stock(self, command: StockCommand, kind: MovementType, quantity: int, change: int) -> Answer:
        key = (command.product_id, command.warehouse_id)
        self._check_ledgers((Line(*key, quantity),))
        if key not in self.levels:
            self.levels[key] = Level(*key, 0, 0, 0, self.now, self.now)
        cause = _Cause(
            self._next_id(),
            command.actor,
            command.correlation_id,
            command.traceparent,
            command.reference,
            command.notes,
        )
        self._move(key, kind, quantity, change, 0, cause)
        level, movement = self.levels[key], self.movements[-1]
        data = {"movement": describe_movement(movement), "level": describe_level(level)}
        subject = f"products/{key[0]}/warehouses/{key[1]}"
        self._tell(cause, "warehouse.stock.changed.v1", subject, data)
        return Answer(level=level, movement=movement)

    def _cannot_open_level(self, command: StockCommand) -> Refusal | None:
        refusal = self._level_not_found((command.product_id, command.warehouse_id))
        return None if refusal.reason is Reason.STOCK_LEVEL_NOT_FOUND else refusal

    def _level_not_found(self, key: LevelKey) -> Refusal:
        return refusals.level_not_found(key, self.stock.products, self.stock.warehouses)

    # ---------------------------------------------------------------- shared by all

    def _targets(self, command: Commit | Cancel) -> list[Reservation]:
        """The reservations that the command is about, oldest first."""
        if command.order_id:
            ids: Iterable[str] = self.orders.get(command.order_id, _NEW_ORDER).reservation_ids
        elif isinstance(command, Cancel) and command.reserve_request_id:
            stored = self.answers[command.reserve_request_id]
            # Only the Reserve that made a reservation was answered at the instant of its making.
            made = [item for item in decode_answer(stored.answer).reservations if item.created_at == stored.created_at]
            ids = [item.reservation_id for item in made]
        else:
            ids = [command.reservation_id]
        return [self.reservations[key] for key in ids if key in self.reservations]

    def _is_overdue(self, reservation: Reservation) -> bool:
        return reservation.state is State.RESERVED and reservation.expires_at <= self.now

    def _check_held(self, reservation: Reservation) -> None:
        """Raises: StockDrift, if the levels do not count what the reservation holds, or can't count it back."""
        self._check_ledgers(reservation.lines)
        for line in reservation.lines:
            level = self.levels.get(line.key)
            if level is None or level.reserved < line.quantity or level.on_hand < line.quantity:
                raise StockDrift(
                    f"reservation {reservation.reservation_id} holds {line.quantity} of product {line.product_id} in "
                    f"warehouse {line.warehouse_id}, where the stock level counts less: run the audit with --repair"
                )

    def _check_ledgers(self, lines: Iterable[Line | HeldLine]) -> None:
        """Raises: StockDrift, if the next movement of a level has its place in the ledger taken."""
        if not self.stock.torn:
            return
        for line in lines:
            if line.key in self.stock.torn:
                raise StockDrift(
                    f"the ledger of product {line.product_id} in warehouse {line.warehouse_id} goes on behind the "
                    "version of its stock level: run the audit with --repair"
                )

    def _move(
        self, key: LevelKey, kind: MovementType, quantity: int, on_hand: int, reserved: int, cause: _Cause
    ) -> None:
        """Change a level by (`on_hand`, `reserved`) and write that into its ledger."""
        old = self.levels[key]
        new = Level(
            old.product_id,
            old.warehouse_id,
            old.on_hand + on_hand,
            old.reserved + reserved,
            old.version + 1,
            old.created_at,
            self.now,
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
                self.now,
            )
        )

    def _cause(self, command: Command, reservation: Reservation) -> _Cause:
        """What the movements of a change to `reservation` have in common, and the id of its event."""
        correlation_id = command.correlation_id or reservation.correlation_id
        reference = reservation.reservation_id
        return _Cause(self._next_id(), command.actor, correlation_id, command.traceparent, reference)

    def _tell_reservation(self, cause: _Cause, verb: str, reservation: Reservation) -> None:
        levels = [describe_level(self.levels[line.key]) for line in reservation.lines]
        data = {"reservation": describe_reservation(reservation), "levels": levels}
        self._tell(cause, f"warehouse.reservation.{verb}.v1", reservation.order_id, data)

    def _tell(self, cause: _Cause, kind: str, subject: str, data: object) -> None:
        text = _encode(data).decode()
        self.events.append(
            Event(cause.event_id, kind, subject, text, cause.correlation_id, self.now, cause.traceparent)
        )

    def _store(self, request_id: str, print_of_command: str, answer: Answer) -> None:
        stored = StoredAnswer(request_id, print_of_command, encode_answer(answer), self.now)
        self.answers[request_id] = stored
        self.new_answers.append(stored)

    def _next_id(self) -> str:
        self._ids += 1
        return uuid7(self.now, self._ids, self.stock.entropy)


def _replay(known: StoredAnswer, command: Command, print_of_command: str) -> Outcome:
    if known.fingerprint == print_of_command:
        return decode_answer(known.answer)
    if isinstance(command, Reserve):
        fenced_at = decode_answer(known.answer).fenced_at
        if fenced_at is not None:
            return refusals.reserve_cancelled(command.order_id, fenced_at)
    return refusals.request_id_reused(command.request_id)


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
