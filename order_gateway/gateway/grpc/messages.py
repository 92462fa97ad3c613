"""What the warehouse sends, as the port's values."""

from datetime import datetime, timedelta
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp

from order_gateway.gateway.port import GatewayFault, HeldLine, Hold, HoldState, Outcome, Product, StockLine
from order_gateway.gateway.stock import Availability, CatalogueProduct, Level
from service_kit.times import EPOCH
from stockwarden_client import ReservationState, stock_pb2, warehouse_pb2

NANOS_PER_CENT = 10_000_000
NANOS_PER_MICROSECOND = 1000
_PREFIX = "RESERVATION_STATE_"
_STATES = {number: HoldState(name.removeprefix(_PREFIX)) for name, number in ReservationState.items() if number}


def instant_of(timestamp: Timestamp, epoch: datetime = EPOCH) -> datetime:
    """As `ToDatetime(UTC)`, which takes twice as long; every order needs two."""
    return epoch + timedelta(0, timestamp.seconds, timestamp.nanos // NANOS_PER_MICROSECOND)


def hold_of(reservation: warehouse_pb2.Reservation, epoch: datetime = EPOCH) -> Hold:
    """A hold.

    Args:
        epoch: what the clock by which its instants are to be told shows when the warehouse's clock shows 1970 begin.

    Raises: GatewayFault, as `state_of`.
    """
    return Hold(
        reservation.reservation_id,
        reservation.order_id,
        state_of(reservation),
        tuple(
            [
                HeldLine(line.product_id, line.warehouse_id, line.quantity, line.committed_quantity)
                for line in reservation.lines
            ]
        ),
        instant_of(reservation.created_at, epoch),
        instant_of(reservation.expires_at, epoch),
        instant_of(reservation.closed_at, epoch) if reservation.HasField("closed_at") else None,
        reservation.reason or None,
    )


def state_of(reservation: warehouse_pb2.Reservation) -> HoldState:
    """Where a hold stands. Raises: GatewayFault, for a state that only a newer warehouse knows."""
    try:
        return _STATES[reservation.state]
    except KeyError:
        message = f"the warehouse answered with a state that this service does not know: {reservation.state}"
        raise GatewayFault("WAREHOUSE_ERROR", message) from None


def outcome_of(outcome: warehouse_pb2.RequestOutcome) -> Outcome:
    """What became of a call."""
    return Outcome(outcome.HasField("answered_at"), tuple(map(hold_of, filter(_has_lines, outcome.reservations))))


def holds_of(page: warehouse_pb2.ListReservationsResponse) -> list[Hold]:
    """The holds of a page; those without lines, which only keep a Reserve from coming later, are left out."""
    return [hold_of(reservation) for reservation in page.reservations if _has_lines(reservation)]


def _has_lines(reservation: warehouse_pb2.Reservation) -> bool:
    return bool(reservation.lines)


def level_of(level: stock_pb2.StockLevel) -> Level:
    """A stock level."""
    return Level(
        level.product_id,
        level.warehouse_id,
        level.on_hand,
        level.reserved,
        level.available,
        instant_of(level.created_at),
        instant_of(level.updated_at),
    )


def availability_of(line: StockLine, item: warehouse_pb2.ItemAvailability) -> Availability:
    """The answer about a line."""
    return Availability(line.product_id, line.warehouse_id, line.quantity, item.available, item.sufficient)


def product_of(product: stock_pb2.Product) -> Product:
    """A product as orders are priced by it."""
    return Product(product.product_id, _list_price_of(product), product.list_price.currency_code)


def catalogue_product_of(product: stock_pb2.Product) -> CatalogueProduct:
    """A product with all that is known about it."""
    price = _list_price_of(product)
    return CatalogueProduct(
        product.product_id,
        product.product_id,
        product.sku,
        product.name,
        product.description,
        price,
        None if price is None else product.list_price.currency_code,
        instant_of(product.created_at),
        instant_of(product.updated_at),
    )


def _list_price_of(product: stock_pb2.Product) -> Decimal | None:
    money = product.list_price
    return price_of(money.units, money.nanos) if product.HasField("list_price") else None


def price_of(units: int, nanos: int) -> Decimal:
    """A google.type.Money as an amount, to the cent."""
    return Decimal(units) + Decimal(nanos // NANOS_PER_CENT) / 100
