"""What clients get: orders and their parts, in the shapes that the contract fixes."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from order_gateway.orders import Item, Order, Reservation, Status


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order."""

    id: int
    user_id: int | str
    status: Status
    total_amount: Decimal
    shipping_address: str
    payment_method: str
    payment_reference: str | None
    payment_deadline: datetime
    cancellation_reason: str | None
    refusal: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    items: tuple[Item, ...]
    reservations: tuple[Reservation, ...]


def order_view(order: Order) -> OrderView:
    """An order as clients see it."""
    return OrderView(
        id=order.id,
        user_id=_user_id(order.user_id),
        status=order.state.status,
        total_amount=order.total_amount,
        shipping_address=order.shipping_address,
        payment_method=order.payment_method,
        payment_reference=order.payment_reference,
        payment_deadline=order.payment_deadline,
        cancellation_reason=order.state.reason,
        refusal=order.refusal,
        created_at=order.created_at,
        updated_at=order.updated_at,
        items=order.items,
        reservations=order.reservations,
    )


def _user_id(text: str) -> int | str:
    """Ids that came as integers go out as integers."""
    return int(text) if text.isascii() and text.isdigit() and text == str(int(text)) else text
