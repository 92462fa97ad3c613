"""The rows of the warehouse as immutable values. Pure.

All are encoded as JSON arrays in field order: that is what the store's statements unpack, and what is kept
as a stored answer, so fields may only be added at the end, with a default. (Not so those of `Event` and
`StoredAnswer`, which are kept in columns of their own. Their long texts come last, because the server looks for each
value of an array from its beginning.)

Instants are integers: microseconds since 1970 in UTC, by the database's clock.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

import msgspec

LevelKey = tuple[int, int]
"""(product_id, warehouse_id): the primary key of a stock level, and the order in which levels are locked."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class State(StrEnum):
    """Where a reservation stands."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class MovementType(StrEnum):
    """Why a stock level changed."""

    STOCK_IN = "STOCK_IN"
    STOCK_OUT = "STOCK_OUT"
    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    ADJUSTMENT = "ADJUSTMENT"
    DAMAGED = "DAMAGED"
    RETURNED = "RETURNED"
    TRANSFER_OUT = "TRANSFER_OUT"
    TRANSFER_IN = "TRANSFER_IN"


class Level(msgspec.Struct, frozen=True, array_like=True):
    """The stock of one product in one warehouse."""

    product_id: int
    warehouse_id: int
    on_hand: int
    reserved: int
    version: int
    created_at: int
    updated_at: int

    @property
    def key(self) -> LevelKey:
        """Its primary key."""
        return (self.product_id, self.warehouse_id)

    @property
    def available(self) -> int:
        """Units that can still be promised."""
        return self.on_hand - self.reserved


class HeldLine(msgspec.Struct, frozen=True, array_like=True):
    """A line of a reservation; `quantity` units were held of `requested_quantity` wanted."""

    product_id: int
    warehouse_id: int
    quantity: int
    requested_quantity: int
    committed_quantity: int = 0

    @property
    def key(self) -> LevelKey:
        """The stock level it is held on."""
        return (self.product_id, self.warehouse_id)


class Reservation(msgspec.Struct, frozen=True, array_like=True):
    """A hold on stock for an order, or what became of it."""

    reservation_id: str
    order_id: str
    order_sequence: int
    state: State
    expires_at: int
    created_at: int
    closed_at: int | None
    reason: str
    correlation_id: str
    lines: tuple[HeldLine, ...]

    @property
    def is_tombstone(self) -> bool:
        """Whether this only marks a cancelled order that was never reserved: it has never been open."""
        return self.expires_at == self.created_at


class Product(msgspec.Struct, frozen=True, array_like=True):
    """Something that is sold; `list_price` is a decimal with two places, like "19.99"."""

    product_id: int
    sku: str
    name: str
    description: str
    list_price: str | None
    currency: str | None
    created_at: int
    updated_at: int


class Warehouse(msgspec.Struct, frozen=True, array_like=True):
    """A stock location."""

    warehouse_id: int
    code: str
    name: str
    priority: int
    created_at: int
    updated_at: int


class Movement(msgspec.Struct, frozen=True, array_like=True):
    """A row of the ledger; `sequence` is its position in the ledger of its level."""

    product_id: int
    warehouse_id: int
    sequence: int
    type: MovementType
    quantity: int
    on_hand_before: int
    on_hand_after: int
    reserved_before: int
    reserved_after: int
    reference: str
    notes: str
    actor: str
    correlation_id: str
    event_id: str
    created_at: int


class Event(msgspec.Struct, frozen=True, array_like=True):
    """What is published about a change; `data` is a JSON object."""

    event_id: str
    type: str
    subject: str
    correlation_id: str
    created_at: int
    traceparent: str
    data: str


class StoredAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What a request id was answered.

    Attributes:
        request_hash: of the command, see `commands.request_hash`; in the database the column `fingerprint`.
        answer: an encoded `commands.Answer`.
    """

    request_id: str
    request_hash: str
    created_at: int
    answer: str


@lru_cache(maxsize=4096)
def rfc3339(instant: int) -> str:
    """An instant as people and other programs read it: `2026-11-20T12:00:00.000000Z`."""
    return (EPOCH + timedelta(microseconds=instant)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def uuid7(instant: int, number: int, entropy: int) -> str:
    """The `number`-th UUIDv7 of a batch (RFC 9562, section 6.2, methods 1 and 3).

    Ids made under a row lock sort in the order in which the lock was held: first by the database's clock to
    the microsecond, then by number. `entropy` (48 random bits, one draw per batch) keeps servers apart.
    """
    milliseconds, micros = divmod(instant + (number >> 14), 1000)
    parts = (_clock_part(milliseconds), micros, 0x8000 | number & 0x3FFF, entropy)
    return "%s%03x-%04x-%012x" % parts  # noqa: UP031 - two are made for every command, and an f-string takes longer


@lru_cache(maxsize=64)
def _clock_part(milliseconds: int) -> str:
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7"
