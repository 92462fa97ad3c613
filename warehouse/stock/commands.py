"""What can be asked of the stock, and what is answered. Pure values.

A command has passed validation: its lines are added up, sorted and positive.
"""

from hashlib import blake2b

import msgspec

from warehouse.stock.records import (
    Level,
    LevelKey,
    Movement,
    MovementType,
    Product,
    Reservation,
    Warehouse,
)
from warehouse.stock.refusals import Refusal


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A quantity wanted of a stock level."""

    product_id: int
    warehouse_id: int
    quantity: int

    @property
    def key(self) -> LevelKey:
        """The stock level meant."""
        return (self.product_id, self.warehouse_id)


class _Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="command", omit_defaults=True):
    """Who asks, in which conversation and trace: no part of what is asked, so a replay may differ in it."""

    actor: str = ""
    correlation_id: str = ""
    traceparent: str = ""


class Reserve(_Asked, frozen=True):
    """Hold `lines` for an order for `ttl` microseconds; or until `expires_at`, if it is given, but no longer."""

    request_id: str
    order_id: str
    lines: tuple[Line, ...]
    ttl: int
    allow_partial: bool = False
    expires_at: int | None = None


class Commit(_Asked, frozen=True):
    """Sell what is held, or only `lines` of it, by reservation or by order."""

    request_id: str
    reservation_id: str = ""
    order_id: str = ""
    lines: tuple[Line, ...] = ()
    reacquire: bool = False


class Cancel(_Asked, frozen=True):
    """Give back what is held, by reservation, by order or by the request id of the Reserve."""

    request_id: str
    reservation_id: str = ""
    order_id: str = ""
    reserve_request_id: str = ""
    reason: str = ""


class Extend(_Asked, frozen=True):
    """Hold for `ttl` microseconds from now."""

    request_id: str
    reservation_id: str
    ttl: int


class Expire(msgspec.Struct, frozen=True):
    """Give back a hold if its time is over; the server asks this of itself, so there is no request id."""

    reservation_id: str
    actor: str = "system"
    correlation_id: str = ""
    traceparent: str = ""
    request_id: str = ""


class ChangeStock(_Asked, frozen=True):
    """Put `quantity` units on hand (> 0) or take free ones away (< 0)."""

    request_id: str
    product_id: int
    warehouse_id: int
    type: MovementType
    quantity: int
    reference: str = ""
    notes: str = ""


class CountStock(_Asked, frozen=True):
    """Set the counted quantity; `reserved`, if given, must equal what is held."""

    request_id: str
    product_id: int
    warehouse_id: int
    on_hand: int
    reserved: int | None = None
    reference: str = ""
    notes: str = ""


class CreateProduct(msgspec.Struct, frozen=True, tag=True, tag_field="command", omit_defaults=True):
    """Add a product; `product_id` 0 is the next free one. Not a command of the batches: see `catalogue`."""

    request_id: str
    product_id: int
    sku: str
    name: str
    description: str
    list_price: str | None
    currency: str | None


class CreateWarehouse(msgspec.Struct, frozen=True, tag=True, tag_field="command", omit_defaults=True):
    """Add a warehouse; `warehouse_id` 0 is the next free one. Not a command of the batches: see `catalogue`."""

    request_id: str
    warehouse_id: int
    code: str
    name: str
    priority: int


StockCommand = ChangeStock | CountStock
CallerCommand = Reserve | Commit | Cancel | Extend | ChangeStock | CountStock
Command = CallerCommand | Expire


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a command did, as it is told to the caller and kept for replays.

    `fenced_at` marks the request id of a Reserve that was cancelled before it came.
    """

    reservations: tuple[Reservation, ...] = ()
    level: Level | None = None
    movement: Movement | None = None
    fenced_at: int | None = None
    product: Product | None = None
    warehouse: Warehouse | None = None


class CorruptedLedger(Exception):
    """The counters of a stock level contradict its reservations or its ledger: somebody changed rows by hand.

    The command had no effect. `python -m warehouse audit --repair` corrects the counters.
    """


Outcome = Answer | Refusal | CorruptedLedger

_answer_encoder = msgspec.json.Encoder()
_answer_decoder = msgspec.json.Decoder(Answer)


def encode_answer(answer: Answer) -> str:
    """An answer as it is stored."""
    return _answer_encoder.encode(answer).decode()


def decode_answer(text: str) -> Answer:
    """A stored answer."""
    return _answer_decoder.decode(text)


def request_hash(command: CallerCommand | CreateProduct | CreateWarehouse) -> str:
    """32 hexadecimal digits that tell apart what was asked, whoever asked."""
    if not isinstance(command, CreateProduct | CreateWarehouse):
        command = msgspec.structs.replace(command, actor="", correlation_id="", traceparent="")
    return blake2b(_answer_encoder.encode(command), digest_size=16).hexdigest()
