"""The warehouse as the order service sees it: one interface, whichever way its calls travel."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

import msgspec


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


class Hold(msgspec.Struct, frozen=True):
    """Stock held for an order."""

    reservation_id: str
    expires_at: datetime
    created_at: datetime
    lines: tuple[StockLine, ...]


class HoldState(StrEnum):
    """Where a reservation stands, as the warehouse calls it."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


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

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        """Hold stock for an order."""
        ...

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        """Where a reservation stands now; None: the warehouse does not know it."""
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
        """What is free of a product now, preferred warehouses first."""
        ...

    async def is_serving(self) -> bool:
        """Whether the warehouse answers that it serves."""
        ...
