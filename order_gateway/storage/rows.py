"""Orders as they travel between this service and its database: JSON arrays, instants as microseconds since 1970."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from order_gateway.gateway.port import Hold
from order_gateway.lifecycle import (
    Item,
    Order,
    Payment,
    Reason,
    Reservation,
    State,
    Status,
    Stock,
    Way,
)
from service_kit.times import from_microseconds, to_microseconds

LINE_ID_STRIDE = 1000
"""An order has fewer lines."""


class OrderRecord(msgspec.Struct, array_like=True, frozen=True):
    """A row of `orders`."""

    id: int
    version: int
    user_id: str
    status: Status
    stock: Stock
    payment: Payment
    reason: Reason | None
    way: Way
    total_amount: Decimal
    shipping_address: str
    payment_method: str
    payment_reference: str | None
    payment_deadline: int
    refusal: str | None
    correlation_id: str
    created_at: int
    updated_at: int
    actor: str
    warehouse_changes: int
    request_key: str
    currency: str
    payment_provider: str | None


class ItemRecord(msgspec.Struct, array_like=True, frozen=True):
    """A row of `items`."""

    order_id: int
    position: int
    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal
    total_price: Decimal
    any_warehouse: int


class ReservationRecord(msgspec.Struct, array_like=True, frozen=True):
    """A row of `reservations`."""

    order_id: int
    position: int
    reservation_id: str
    product_id: int
    warehouse_id: int
    quantity: int
    expires_at: int
    created_at: int


read_order = msgspec.json.Decoder(OrderRecord).decode
read_item = msgspec.json.Decoder(ItemRecord).decode
read_reservation = msgspec.json.Decoder(ReservationRecord).decode
read_versions = msgspec.json.Decoder(list[tuple[int, int]]).decode
read_created = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
encode = msgspec.json.Encoder().encode


def line_id(order_id: int, position: int) -> int:
    """The number of a line, or of its hold, for clients: unique among all orders."""
    return order_id * LINE_ID_STRIDE + position


def line_of(id_: int) -> tuple[int, int]:
    """The order and the position that `line_id` made a number of."""
    return divmod(id_, LINE_ID_STRIDE)


def orders_of(rows: Sequence[Iterable[tuple[str, ...]]], now: int) -> dict[int, Order]:
    """Orders by id; `rows` are those of the orders, of their items and of their reservations."""
    order_rows, item_rows, reservation_rows = rows
    records = [read_order(row) for (row,) in order_rows]
    currencies = {record.id: record.currency for record in records}
    items: defaultdict[int, list[Item]] = defaultdict(list)
    for (row,) in item_rows:
        item = read_item(row)
        items[item.order_id].append(
            Item(
                line_id(item.order_id, item.position),
                item.product_id,
                item.warehouse_id,
                item.quantity,
                item.unit_price,
                item.total_price,
                bool(item.any_warehouse),
                currencies.get(item.order_id, ""),
            )
        )
    held: defaultdict[int, list[ReservationRecord]] = defaultdict(list)
    for (row,) in reservation_rows:
        hold = read_reservation(row)
        held[hold.order_id].append(hold)
    return {record.id: _order(record, items[record.id], held[record.id], now) for record in records}


def _order(record: OrderRecord, items: Iterable[Item], held: Iterable[ReservationRecord], now: int) -> Order:
    state = State(record.status, record.stock, record.payment, record.reason)
    return Order(
        id=record.id,
        version=record.version,
        user_id=record.user_id,
        state=state,
        way=record.way,
        total_amount=record.total_amount,
        shipping_address=record.shipping_address,
        payment_method=record.payment_method,
        payment_reference=record.payment_reference,
        payment_deadline=from_microseconds(record.payment_deadline),
        created_at=from_microseconds(record.created_at),
        updated_at=from_microseconds(record.updated_at),
        correlation_id=record.correlation_id,
        refusal=None if record.refusal is None else msgspec.json.decode(record.refusal),
        actor=record.actor,
        warehouse_changes=record.warehouse_changes,
        items=tuple(items),
        reservations=tuple(reservation(hold, state, now) for hold in held),
        request_key=record.request_key,
        currency=record.currency,
        payment_provider=record.payment_provider,
    )


def reservation(record: ReservationRecord, state: State, now: int) -> Reservation:
    """A line's hold as it stands at `now`."""
    return Reservation(
        id=line_id(record.order_id, record.position),
        reservation_id=record.reservation_id,
        order_id=record.order_id,
        product_id=record.product_id,
        warehouse_id=record.warehouse_id,
        quantity=record.quantity,
        expires_at=from_microseconds(record.expires_at),
        is_active=is_active(state) and now < record.expires_at,
        is_confirmed=is_confirmed(state),
        created_at=from_microseconds(record.created_at),
    )


def hold_records(order_id: int, hold: Hold) -> list[ReservationRecord]:
    """The rows of an order's `hold`, one for each of its lines."""
    instants = (to_microseconds(hold.expires_at), to_microseconds(hold.created_at))
    return [
        ReservationRecord(
            order_id, position, hold.reservation_id, line.product_id, line.warehouse_id, line.quantity, *instants
        )
        for position, line in enumerate(hold.lines, 1)
    ]


def reservations_after(order: Order, hold: Hold | None, state: State, now: int) -> tuple[Reservation, ...]:
    """An order's holds, old ones or those of a new `hold`, as they stand at `now` in the order's new state."""
    if hold is not None:
        return tuple(reservation(record, state, now) for record in hold_records(order.id, hold))
    active, confirmed = is_active(state), is_confirmed(state)
    return tuple(
        replace(one, is_active=active and now < to_microseconds(one.expires_at), is_confirmed=confirmed)
        for one in order.reservations
    )


def is_active(state: State) -> bool:
    """Whether the holds of an order in this state still hold, unless they have expired."""
    return state.stock in (Stock.HELD, Stock.COMMITTING)


def is_confirmed(state: State) -> bool:
    """Whether the holds of an order in this state have become a sale."""
    return state.stock in (Stock.COMMITTED, Stock.RETURNING, Stock.RETURNED)
