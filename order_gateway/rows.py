"""From the rows of an order to the order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy

from order_gateway.orders import Item, Order, Payment, Reason, Reservation, State, Status, Stock, Way


class OrderNotFound(Exception):
    """There is no such order."""


def order_from_rows(
    row: sqlalchemy.Row[Any], items: Sequence[sqlalchemy.Row[Any]], held: Sequence[sqlalchemy.Row[Any]]
) -> Order:
    """An order from its rows; `row` also has the database's time, as `now_`."""
    reason = None if row.reason is None else Reason(row.reason)
    state = State(Status(row.status), Stock(row.stock), Payment(row.payment), reason)
    return Order(
        id=row.id,
        user_id=row.user_id,
        state=state,
        way=Way(row.way),
        total_amount=row.total_amount,
        shipping_address=row.shipping_address,
        payment_method=row.payment_method,
        payment_reference=row.payment_reference,
        payment_deadline=_aware(row.payment_deadline),
        created_at=_aware(row.created_at),
        updated_at=_aware(row.updated_at),
        correlation_id=row.correlation_id,
        refusal=row.refusal,
        actor=row.actor,
        warehouse_changes=row.warehouse_changes,
        items=tuple(_item(item) for item in items),
        reservations=tuple(_reservation(hold, state, row.now_) for hold in held),
    )


def _item(row: sqlalchemy.Row[Any]) -> Item:
    place = (row.product_id, row.warehouse_id, row.quantity)
    return Item(row.id, *place, row.unit_price, row.total_price, bool(row.any_warehouse))


def _reservation(row: sqlalchemy.Row[Any], state: State, now: datetime) -> Reservation:
    return Reservation(
        id=row.id,
        reservation_id=row.reservation_id,
        order_id=row.order_id,
        product_id=row.product_id,
        warehouse_id=row.warehouse_id,
        quantity=row.quantity,
        expires_at=_aware(row.expires_at),
        is_active=state.stock in (Stock.HELD, Stock.COMMITTING) and now < row.expires_at,
        is_confirmed=state.stock in (Stock.COMMITTED, Stock.RETURNING, Stock.RETURNED),
        created_at=_aware(row.created_at),
    )


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC)
