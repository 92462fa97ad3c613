"""The port: the warehouse as the order service sees it, whichever way its calls travel.

Stock that is kept for somebody is a *hold*: what the warehouse calls a reservation on the wire is a hold here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from order_gateway.gateway.stock import Availability, CatalogueProduct, Level, LevelKey, ProductPage


class Mode(StrEnum):
    """How orders reach the warehouse: by calls, by the queue, or by calls while the warehouse answers."""

    GRPC = "grpc"
    QUEUED = "queued"
    AUTO = "auto"


class Call(msgspec.Struct, frozen=True):
    """What goes along with every call.

    Attributes:
        request_id: the idempotency key; the same for every repetition of a step.
        deadline_seconds: None: the gateway's default.
    """

    request_id: str
    correlation_id: str
    traceparent: str = ""
    deadline_seconds: float | None = None
    actor: str = ""


class StockLine(msgspec.Struct, frozen=True):
    """Units of a product in a warehouse."""

    product_id: int
    warehouse_id: int
    quantity: int


class HoldState(StrEnum):
    """Where a hold stands, as the warehouse calls it."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class HeldLine(msgspec.Struct, frozen=True):
    """A line of a hold.

    Attributes:
        quantity: units that it took hold of.
        committed: units of these that were sold; 0 unless the hold is committed.
    """

    product_id: int
    warehouse_id: int
    quantity: int
    committed: int = 0


class Hold(msgspec.Struct, frozen=True):
    """Stock that is or was held, whatever became of it since.

    Attributes:
        reservation_id: what the warehouse calls it.
        order_id: what the warehouse calls the order that it was made for.
        expires_at: when it ends, or would have ended, by itself.
        closed_at: when it was sold, given back or found overdue; None: not yet.
        reason: of whoever gave it back.
    """

    reservation_id: str
    order_id: str
    state: HoldState
    lines: tuple[HeldLine, ...]
    created_at: datetime
    expires_at: datetime
    closed_at: datetime | None = None
    reason: str | None = None

    @property
    def held(self) -> tuple[StockLine, ...]:
        """What it took hold of."""
        return tuple(StockLine(line.product_id, line.warehouse_id, line.quantity) for line in self.lines)

    @property
    def held_or_sold(self) -> tuple[StockLine, ...]:
        """What it took hold of; what was sold, where it is committed."""
        if self.state is not HoldState.COMMITTED:
            return self.held
        return tuple(StockLine(line.product_id, line.warehouse_id, line.committed) for line in self.lines)


class Outcome(msgspec.Struct, frozen=True):
    """What became of a call.

    Attributes:
        is_known: whether the warehouse has answered it; a refusal does not count, it has no effect.
        holds: what it was answered, as they are now.
    """

    is_known: bool
    holds: tuple[Hold, ...]


class Caller(msgspec.Struct, frozen=True):
    """This service as the warehouse knows it.

    Attributes:
        name: of its key.
        role: what the key allows.
        now: the warehouse's time; None: it is too old to tell.
    """

    name: str
    role: str
    now: datetime | None


class Product(msgspec.Struct, frozen=True):
    """What the catalogue knows about a product; `price` is None where it has no list price."""

    product_id: int
    price: Decimal | None
    currency: str

    def currency_or(self, named: str) -> str:
        """Of its price; `named` where it has none, or its currency is not known."""
        return named if self.price is None else self.currency or named


class CataloguePage(msgspec.Struct, frozen=True):
    """Some products, by id, and when they were read, by the warehouse's clock."""

    products: Mapping[int, Product]
    read_at: datetime


class Refusal(msgspec.Struct, frozen=True):
    """A no that is part of normal life: the error code, a text for people, and details per line."""

    code: str
    message: str
    details: tuple[Mapping[str, Any], ...] = ()


class Done(msgspec.Struct, frozen=True):
    """The warehouse did what it was asked."""


class GatewayFault(Exception):
    """The warehouse could not be asked, or its answer did not come: the outcome is not known.

    Attributes:
        code: for the caller of this service.
        retry_after_seconds: when asking again makes sense.
    """

    def __init__(self, code: str, message: str, retry_after_seconds: float = 1) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class WarehouseGateway(Protocol):
    """The calls to the warehouse. Each raises GatewayFault when the outcome is not known."""

    # What orders need: their holds, and what they are priced and placed by.

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order; its instants are told by this service's own clock."""
        ...

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        """Where a hold stands now; None: the warehouse does not know it."""
        ...

    async def commit(self, reservation_id: str, call: Call) -> Done | Refusal:
        """Sell what is held; an expired hold is taken again if the stock is still there."""
        ...

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Done | Refusal:
        """Give back what a Reserve took, and see to it that it takes nothing later."""
        ...

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Done:
        """Put sold units back on hand."""
        ...

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        """The products that exist, by id."""
        ...

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        """What is free of a product now, preferred warehouses first; empty for a product that does not exist."""
        ...

    # Stock, holds and products for those who work with them directly. Refusals tell numbers as numbers.

    async def level(self, key: LevelKey, call: Call) -> Level | Refusal:
        """One stock level."""
        ...

    async def levels(self, keys: Sequence[LevelKey], call: Call) -> tuple[list[Level], list[LevelKey]]:
        """The stock levels that exist, and the keys of those that don't."""
        ...

    async def check(self, lines: Sequence[StockLine], call: Call) -> list[Availability]:
        """Whether that much is free now, line by line; several on the same stock level are judged by their sum."""
        ...

    async def count(
        self, key: LevelKey, quantity: int, reserved: int | None, notes: str, call: Call
    ) -> Level | Refusal:
        """Set the counted quantity; refused if `reserved` is given and is not what is held."""
        ...

    async def reserve_until(
        self, order_id: str, lines: Sequence[StockLine], until: datetime, call: Call
    ) -> Hold | Refusal:
        """Hold stock until an instant, which the warehouse compares with its own clock."""
        ...

    async def hold(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """One hold, as it is now."""
        ...

    async def sell(self, reservation_id: str, call: Call) -> Hold | Refusal:
        """Sell what is held, unless its time is over."""
        ...

    async def release(self, reservation_id: str, reason: str, call: Call) -> Hold | Refusal:
        """Give back what is held."""
        ...

    async def sweep(self, call: Call) -> int:
        """End overdue holds now; how many there were."""
        ...

    async def product(self, product_id: int, call: Call) -> CatalogueProduct | Refusal:
        """One product."""
        ...

    async def product_page(self, skip: int, size: int, token: str, call: Call) -> ProductPage:
        """At most `size` products by id: behind the first `skip`, or where a page's `next_token` leads to."""
        ...

    # What the audit reads, and other walks through all there is, which no customer waits for.

    async def outcomes(self, request_ids: Sequence[str], call: Call) -> list[Outcome]:
        """What became of the calls with these request ids, which differ, in their order.

        A hold that merely carries an order's number is no part of this.
        """
        ...

    def holds_made_since(self, since: datetime | None) -> AsyncIterator[list[Hold]]:
        """All holds with lines, of whomever, that were made then or later (None: all), page by page, newest first."""
        ...

    def catalogue(self, changed_since: datetime | None = None) -> AsyncIterator[CataloguePage]:
        """The products that were changed since then (None: all), page by page."""
        ...

    # How this service stands with the warehouse.

    async def caller(self, call: Call) -> Caller | Refusal:
        """Who this service is there; the refusal says what is wrong with its key, and what to do about it."""
        ...

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves; one try, and no fault."""
        ...

    @property
    def connections_replaced(self) -> int:
        """How many connections to it were replaced because they had gone silent."""
        ...
