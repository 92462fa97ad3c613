"""What clients get: orders and their parts, in the shapes that the contract fixes."""

from decimal import Decimal
from typing import Any

import msgspec

from order_gateway.gateway.port import Hold, HoldState, StockLine
from order_gateway.http.wire.readers import is_digits
from order_gateway.lifecycle import Instant, Item, Order, Payment, Reservation, Status


class OrderView(msgspec.Struct, frozen=True):
    """An order."""

    id: int
    user_id: int | str
    status: Status
    total_amount: Decimal
    currency: str
    shipping_address: str
    payment_method: str
    payment_reference: str | None
    payment_status: Payment
    payment_deadline: Instant
    cancellation_reason: str | None
    refusal: dict[str, Any] | None
    created_at: Instant
    updated_at: Instant
    items: tuple[Item, ...]
    reservations: tuple[Reservation, ...]


class HoldView(msgspec.Struct, frozen=True):
    """A reservation of the warehouse; the fields of its line are null if it has several."""

    id: str
    reservation_id: str
    order_id: int | str
    status: str
    product_id: int | None
    warehouse_id: int | None
    quantity: int | None
    items: tuple[StockLine, ...]
    expires_at: Instant
    is_active: bool
    is_confirmed: bool
    reason: str | None
    created_at: Instant
    closed_at: Instant | None


def hold_view(hold: Hold, order: Order | None = None) -> HoldView:
    """A reservation as clients see it; one of an `order` of this service under the order's number."""
    items = hold.held
    only = items[0] if len(items) == 1 else None
    return HoldView(
        id=hold.reservation_id,
        reservation_id=hold.reservation_id,
        order_id=plain_id(hold.order_id) if order is None else order.id,
        status=hold.state.lower(),
        product_id=only.product_id if only else None,
        warehouse_id=only.warehouse_id if only else None,
        quantity=only.quantity if only else None,
        items=items,
        expires_at=hold.expires_at,
        is_active=hold.state is HoldState.RESERVED,
        is_confirmed=hold.state is HoldState.COMMITTED,
        reason=hold.reason,
        created_at=hold.created_at,
        closed_at=hold.closed_at,
    )


def order_view(order: Order) -> OrderView:
    """An order as clients see it."""
    return OrderView(
        id=order.id,
        user_id=plain_id(order.user_id),
        status=order.state.status,
        total_amount=order.total_amount,
        currency=order.currency,
        shipping_address=order.shipping_address,
        payment_method=order.payment_method,
        payment_reference=order.payment_reference,
        payment_status=order.state.payment,
        payment_deadline=order.payment_deadline,
        cancellation_reason=order.state.reason,
        refusal=order.refusal,
        created_at=order.created_at,
        updated_at=order.updated_at,
        items=order.items,
        reservations=order.reservations,
    )


def plain_id(text: str) -> int | str:
    """Ids that came as integers go out as integers."""
    return int(text) if is_digits(text) else text
