"""What `decide` is given, and what it gives back. Pure values."""

import msgspec

from warehouse.stock.commands import Outcome
from warehouse.stock.records import (
    Event,
    Level,
    LevelKey,
    Movement,
    Reservation,
    StoredAnswer,
)


class Order(msgspec.Struct, frozen=True):
    """What is known of an order: its latest reservation's number, its tombstone, and the ids asked for.

    `reservation_ids`, oldest first, are there only if a command acts on the order's holds.
    """

    last_sequence: int = 0
    cancelled_at: int | None = None
    reservation_ids: tuple[str, ...] = ()


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
