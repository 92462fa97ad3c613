"""A 'no' that is part of the business: a value in here, a status at the edge. Pure."""

from collections.abc import Container
from enum import StrEnum

import msgspec

from warehouse.stock.records import LevelKey, Reservation, State, rfc3339


class Reason(StrEnum):
    """Why a command was refused (google.rpc.ErrorInfo.reason)."""

    INSUFFICIENT_STOCK = "INSUFFICIENT_STOCK"
    PRODUCT_NOT_FOUND = "PRODUCT_NOT_FOUND"
    WAREHOUSE_NOT_FOUND = "WAREHOUSE_NOT_FOUND"
    STOCK_LEVEL_NOT_FOUND = "STOCK_LEVEL_NOT_FOUND"
    RESERVATION_NOT_FOUND = "RESERVATION_NOT_FOUND"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    RESERVATION_EXPIRED = "RESERVATION_EXPIRED"
    RESERVATION_COMMITTED = "RESERVATION_COMMITTED"
    RESERVATION_CANCELLED = "RESERVATION_CANCELLED"
    RESERVE_CANCELLED = "RESERVE_CANCELLED"
    RESERVED_MISMATCH = "RESERVED_MISMATCH"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    PRODUCT_EXISTS = "PRODUCT_EXISTS"
    WAREHOUSE_EXISTS = "WAREHOUSE_EXISTS"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """Only for what shows to be malformed when it meets the database's clock."""


class Shortage(msgspec.Struct, frozen=True):
    """A line that can't be had."""

    product_id: int
    warehouse_id: int
    requested: int
    available: int


class Refusal(msgspec.Struct, frozen=True):
    """A 'no' that is part of the business; `details` are the pairs that tell the caller which and when."""

    reason: Reason
    message: str
    details: tuple[tuple[str, str], ...] = ()
    shortages: tuple[Shortage, ...] = ()


def insufficient(shortages: tuple[Shortage, ...]) -> Refusal:
    """Some lines can't be had."""
    first = shortages[0]
    message = (
        f"product {first.product_id} in warehouse {first.warehouse_id}: requested {first.requested}, "
        f"available {first.available}"
    )
    if len(shortages) > 1:
        message += f" (and {len(shortages) - 1} more)"
    return Refusal(Reason.INSUFFICIENT_STOCK, message, (), shortages)


def expires_at_over(now: int) -> Refusal:
    """A hold was to end before it begins."""
    return Refusal(Reason.INVALID_ARGUMENT, f"is over: it is {rfc3339(now)} here", (("field", "expires_at"),))


def expires_at_too_far(latest: int) -> Refusal:
    """A hold was to last for longer than one may."""
    return Refusal(Reason.INVALID_ARGUMENT, f"must be at or before {rfc3339(latest)}", (("field", "expires_at"),))


def reserve_cancelled(order_id: str, cancelled_at: int) -> Refusal:
    """The order, or this very Reserve, was cancelled before it came."""
    when = rfc3339(cancelled_at)
    message = f"order {order_id!r} was cancelled at {when}, before this reserve came"
    return Refusal(Reason.RESERVE_CANCELLED, message, (("order_id", order_id), ("cancelled_at", when)))


def reservation_not_found(reservation_id: str, request_id: str = "") -> Refusal:
    """Nothing is known under the one id that is not empty."""
    name, value = ("request_id", request_id) if request_id else ("reservation_id", reservation_id)
    message = f"there is no reservation with {name} {value!r}"
    return Refusal(Reason.RESERVATION_NOT_FOUND, message, ((name, value),))


def order_not_found(order_id: str) -> Refusal:
    """Nothing was ever reserved, or cancelled, for the order."""
    return Refusal(Reason.ORDER_NOT_FOUND, f"nothing is known of an order {order_id!r}", (("order_id", order_id),))


def closed(reservation: Reservation) -> Refusal:
    """Why a reservation that is not open any more can't be acted on."""
    if reservation.state is State.EXPIRED:
        when = rfc3339(reservation.expires_at)
        details = (("reservation_id", reservation.reservation_id), ("expires_at", when))
        message = f"reservation {reservation.reservation_id} expired at {when}"
        return Refusal(Reason.RESERVATION_EXPIRED, message, details)
    when = rfc3339(reservation.closed_at or reservation.created_at)
    state = ("state", reservation.state.value)
    sold = reservation.state is State.COMMITTED
    reason = Reason.RESERVATION_COMMITTED if sold else Reason.RESERVATION_CANCELLED
    message = f"reservation {reservation.reservation_id} was {reservation.state.lower()} at {when}"
    return Refusal(reason, message, (("reservation_id", reservation.reservation_id), state, ("closed_at", when)))


def level_not_found(key: LevelKey, products: Container[int], warehouses: Container[int]) -> Refusal:
    """There is no such stock level; `products` and `warehouses` tell whose fault that is."""
    product, warehouse = ("product_id", str(key[0])), ("warehouse_id", str(key[1]))
    if key[0] not in products:
        return Refusal(Reason.PRODUCT_NOT_FOUND, f"there is no product {key[0]}", (product,))
    if key[1] not in warehouses:
        return Refusal(Reason.WAREHOUSE_NOT_FOUND, f"there is no warehouse {key[1]}", (warehouse,))
    message = f"warehouse {key[1]} does not keep product {key[0]}"
    return Refusal(Reason.STOCK_LEVEL_NOT_FOUND, message, (product, warehouse))


def reserved_mismatch(expected: int, reserved: int) -> Refusal:
    """The caller believes that another quantity is held than really is."""
    details = (("expected", str(expected)), ("reserved", str(reserved)))
    return Refusal(Reason.RESERVED_MISMATCH, f"{reserved} units are held, not {expected}", details)


def answer_too_large(order_id: str, holds: int) -> Refusal:
    """An order has so many reservations that no answer could hold them all."""
    message = f"order {order_id!r} has {holds} reservations, too many for one answer: name them by reservation_id"
    return Refusal(Reason.ANSWER_TOO_LARGE, message, (("order_id", order_id), ("reservations", str(holds))))


def request_id_reused(request_id: str) -> Refusal:
    """The request id has had its effect, for another request."""
    message = f"request id {request_id!r} was used before, for another request"
    return Refusal(Reason.REQUEST_ID_REUSED, message, (("request_id", request_id),))
