"""Stock and products as the warehouse tells them to those who ask for them directly."""

from dataclasses import dataclass
from decimal import Decimal

from order_gateway.lifecycle import Instant


@dataclass(frozen=True, slots=True)
class Level:
    """The stock of a product in a warehouse."""

    product_id: int
    warehouse_id: int
    quantity: int
    reserved_quantity: int
    available_quantity: int
    created_at: Instant
    updated_at: Instant


@dataclass(frozen=True, slots=True)
class LevelKey:
    """Names a stock level."""

    product_id: int
    warehouse_id: int


@dataclass(frozen=True, slots=True)
class AvailabilityQuestion:
    """Units whose availability is asked; `warehouse_id` None: in any one warehouse."""

    product_id: int
    warehouse_id: int | None
    quantity: int


@dataclass(frozen=True, slots=True)
class Availability:
    """What is free now: in the warehouse asked for, or in the one that has most of it."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    available: int
    sufficient: bool


@dataclass(frozen=True, slots=True)
class CatalogueProduct:
    """A product; `price` is None where it has no list price."""

    id: int
    product_id: int
    sku: str
    name: str
    description: str
    price: Decimal | None
    currency: str | None
    created_at: Instant
    updated_at: Instant


@dataclass(frozen=True, slots=True)
class ProductPage:
    """Some products in the order of their ids; `next_token` is empty where these are the last, `total` counts all."""

    products: tuple[CatalogueProduct, ...]
    next_token: str
    total: int
