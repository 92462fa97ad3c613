"""From protobuf messages to commands, checked, and from answers to protobuf messages."""

from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import TypedDict

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from service_kit.actors import ACTOR_LENGTH_MAX
from service_kit.currencies import WITHOUT_CENTS
from service_kit.tracing import valid_traceparent
from stockwarden_client.v1 import stock_pb2 as stock
from stockwarden_client.v1 import warehouse_pb2 as pb
from warehouse.rpc.edge import Caller
from warehouse.settings import Limits
from warehouse.stock.commands import (
    Answer,
    Cancel,
    ChangeStock,
    Commit,
    CountStock,
    CreateProduct,
    CreateWarehouse,
    Extend,
    Line,
    Reserve,
)
from warehouse.stock.records import (
    Level,
    LevelKey,
    Movement,
    MovementType,
    Product,
    Reservation,
    State,
    Warehouse,
)
from warehouse.validation import CALL_LINES_MAX, CHOSEN_ID_MAX, COUNT_MAX, ID_MAX, MICROS, QUANTITY_MAX, Checks

_STATES = {state: pb.ReservationState.Value(f"RESERVATION_STATE_{state}") for state in State}
_MOVEMENT_TYPES = {kind: stock.MovementType.Value(f"MOVEMENT_TYPE_{kind}") for kind in MovementType}
_STATE_OF: dict[int, State] = {number: state for state, number in _STATES.items()}
_MOVEMENT_TYPE_OF: dict[int, MovementType] = {number: kind for kind, number in _MOVEMENT_TYPES.items()}
_PRICE_MAX_UNITS = 9_999_999_999
_NANOS_PER_CENT = 10_000_000
_NANOS_PER_SECOND = 1_000_000_000
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799  # years 1 to 9999, says timestamp.proto


# -------------------------------------------------------------------- requests


def lines_of(checks: Checks, field: str, lines: Iterable[pb.Line]) -> tuple[Line, ...]:
    """Checked lines, those for the same stock level added up, sorted by stock level."""
    totals: dict[LevelKey, int] = {}
    for position, line in enumerate(lines):
        # Each is read from the message once: that takes longer than to compare it.
        key, quantity = (line.product_id, line.warehouse_id), line.quantity
        if not (key[0] > 0 and key[1] > 0 and 0 < quantity <= QUANTITY_MAX):
            path = f"{field}[{position}]"
            checks.number(f"{path}.product_id", key[0], 1, ID_MAX)
            checks.number(f"{path}.warehouse_id", key[1], 1, ID_MAX)
            checks.number(f"{path}.quantity", quantity, 1, QUANTITY_MAX)
        totals[key] = totals.get(key, 0) + quantity
    return tuple([Line(*key, totals[key]) for key in sorted(totals)])


def reserve(request: pb.ReserveRequest, caller: Caller, limits: Limits) -> Reserve:
    """Raises: InvalidRequest."""
    checks = Checks()
    checks.count("lines", len(request.lines), CALL_LINES_MAX)
    command = Reserve(
        request_id=checks.opaque_id("request_id", request.request_id),
        order_id=checks.opaque_id("order_id", request.order_id),
        lines=lines_of(checks, "lines", request.lines),
        ttl=_ttl(checks, request.ttl, limits) if request.HasField("ttl") else int(limits.ttl_default_seconds * MICROS),
        allow_partial=request.allow_partial,
        actor=caller.acting_for(checks.text("actor", request.actor, ACTOR_LENGTH_MAX)),
        correlation_id=checks.opaque_id("correlation_id", request.correlation_id, required=False)
        or caller.correlation_id,
        traceparent=valid_traceparent(request.traceparent) or caller.traceparent,
    )
    if request.HasField("expires_at"):
        if request.HasField("ttl"):
            checks.fail("expires_at", "give either this or ttl")
        until = _instant(checks, "expires_at", request.expires_at)
        command = msgspec.structs.replace(command, ttl=int(limits.ttl_max_seconds * MICROS), expires_at=until)
    checks.done()
    return command


def commit(request: pb.CommitRequest, caller: Caller) -> Commit:
    """Raises: InvalidRequest."""
    checks = Checks()
    _target(checks, request)
    if len(request.lines) > CALL_LINES_MAX:
        checks.count("lines", len(request.lines), CALL_LINES_MAX)
    if request.if_expired not in pb.IfExpired.values():
        checks.fail("if_expired", f"{request.if_expired} is not a value of IfExpired")
    command = Commit(
        request_id=checks.opaque_id("request_id", request.request_id),
        reservation_id=request.reservation_id,
        order_id=request.order_id,
        lines=lines_of(checks, "lines", request.lines),
        reacquire=request.if_expired == pb.IF_EXPIRED_REACQUIRE,
        actor=caller.actor,
        correlation_id=caller.correlation_id,
        traceparent=caller.traceparent,
    )
    checks.done()
    return command


def cancel(request: pb.CancelRequest, caller: Caller) -> Cancel:
    """Raises: InvalidRequest."""
    checks = Checks()
    _target(checks, request)
    command = Cancel(
        request_id=checks.opaque_id("request_id", request.request_id),
        reservation_id=request.reservation_id,
        order_id=request.order_id,
        reserve_request_id=request.reserve_request_id,
        reason=checks.text("reason", request.reason, 255),
        actor=caller.actor,
        correlation_id=caller.correlation_id,
        traceparent=caller.traceparent,
    )
    if request.reserve_request_id and request.reserve_request_id == request.request_id:
        checks.fail("reserve_request_id", "must not be the request_id of this call")
    checks.done()
    return command


def extend(request: pb.ExtendRequest, caller: Caller, limits: Limits) -> Extend:
    """Raises: InvalidRequest."""
    checks = Checks()
    if not request.HasField("ttl"):
        checks.fail("ttl", "is required")
    command = Extend(
        request_id=checks.opaque_id("request_id", request.request_id),
        reservation_id=checks.opaque_id("reservation_id", request.reservation_id),
        ttl=_ttl(checks, request.ttl, limits) if request.HasField("ttl") else 0,
        actor=caller.actor,
        correlation_id=caller.correlation_id,
        traceparent=caller.traceparent,
    )
    checks.done()
    return command


def change_stock(
    request: stock.AddStockRequest | stock.RemoveStockRequest,
    caller: Caller,
    kinds: tuple[MovementType, ...],
    sign: int,
) -> ChangeStock:
    """`kinds`: the types that the call allows, the one for an unset type first. Raises: InvalidRequest."""
    checks = Checks()
    kind = _MOVEMENT_TYPE_OF.get(request.type) if request.type else kinds[0]
    if kind not in kinds:
        checks.fail("type", f"must be {' or '.join(kinds)}")
    command = ChangeStock(
        request_id=checks.opaque_id("request_id", request.request_id),
        product_id=checks.number("product_id", request.product_id, 1, ID_MAX),
        warehouse_id=checks.number("warehouse_id", request.warehouse_id, 1, ID_MAX),
        type=kind or kinds[0],
        quantity=sign * checks.number("quantity", request.quantity, 1, QUANTITY_MAX),
        reference=checks.opaque_id("reference", request.reference, required=False),
        notes=checks.text("notes", request.notes, 255),
        actor=caller.actor,
        correlation_id=caller.correlation_id,
        traceparent=caller.traceparent,
    )
    checks.done()
    return command


def count_stock(request: stock.UpdateInventoryRequest, caller: Caller) -> CountStock:
    """Raises: InvalidRequest."""
    checks = Checks()
    has_reserved = request.HasField("reserved")
    command = CountStock(
        request_id=checks.opaque_id("request_id", request.request_id),
        product_id=checks.number("product_id", request.product_id, 1, ID_MAX),
        warehouse_id=checks.number("warehouse_id", request.warehouse_id, 1, ID_MAX),
        on_hand=checks.number("on_hand", request.on_hand, 0, COUNT_MAX),
        reserved=checks.number("reserved", request.reserved, 0, COUNT_MAX) if has_reserved else None,
        reference=checks.opaque_id("reference", request.reference, required=False),
        notes=checks.text("notes", request.notes, 255),
        actor=caller.actor,
        correlation_id=caller.correlation_id,
        traceparent=caller.traceparent,
    )
    checks.done()
    return command


def create_product(request: stock.CreateProductRequest) -> CreateProduct:
    """Raises: InvalidRequest."""
    checks = Checks()
    has_price = request.HasField("list_price")
    command = CreateProduct(
        request_id=checks.opaque_id("request_id", request.request_id),
        product_id=checks.number("product_id", request.product_id, 0, CHOSEN_ID_MAX),
        sku=checks.opaque_id("sku", request.sku),
        name=checks.text("name", request.name, 255, required=True),
        description=checks.text("description", request.description, 4000),
        list_price=_price(checks, request.list_price) if has_price else None,
        currency=request.list_price.currency_code if has_price else None,
    )
    checks.done()
    return command


def create_warehouse(request: stock.CreateWarehouseRequest) -> CreateWarehouse:
    """Raises: InvalidRequest."""
    checks = Checks()
    command = CreateWarehouse(
        request_id=checks.opaque_id("request_id", request.request_id),
        warehouse_id=checks.number("warehouse_id", request.warehouse_id, 0, CHOSEN_ID_MAX),
        code=checks.opaque_id("code", request.code),
        name=checks.text("name", request.name, 255) or request.code,
        priority=checks.number("priority", request.priority, 0, 1_000_000),
    )
    checks.done()
    return command


def state_filter(checks: Checks, number: int) -> State | None:
    """The state that a filter names, None for any."""
    if number and number not in _STATE_OF:
        checks.fail("state", f"{number} is not a value of ReservationState")
    return _STATE_OF.get(number)


def movement_type_filter(checks: Checks, number: int) -> MovementType | None:
    """The movement type that a filter names, None for any."""
    if number and number not in _MOVEMENT_TYPE_OF:
        checks.fail("type", f"{number} is not a value of MovementType")
    return _MOVEMENT_TYPE_OF.get(number)


def since_filter(checks: Checks, since: Timestamp, field: str = "since") -> int:
    """The instant that a filter names, in microseconds since 1970."""
    return _instant(checks, field, since)


def micros_of(value: Timestamp | Duration) -> int:
    """A protobuf instant or duration as microseconds, rounded down."""
    return value.seconds * MICROS + value.nanos // 1000


def _instant(checks: Checks, field: str, value: Timestamp) -> int:
    if not (_SECONDS_MIN <= value.seconds <= _SECONDS_MAX and 0 <= value.nanos < _NANOS_PER_SECOND):
        checks.fail(field, "is not an instant of the years 1 to 9999")
    return micros_of(value)


def _target(checks: Checks, request: pb.CommitRequest | pb.CancelRequest) -> None:
    which = request.WhichOneof("target")
    if which is None:
        checks.fail("target", "name what is meant: reservation_id or order_id")
    else:
        checks.opaque_id(which, getattr(request, which))


def _ttl(checks: Checks, ttl: Duration, limits: Limits) -> int:
    micros = micros_of(ttl)
    if not 0 <= ttl.nanos < _NANOS_PER_SECOND:
        checks.fail("ttl.nanos", f"must be 0 to {_NANOS_PER_SECOND - 1}")
    elif not 0 < micros <= limits.ttl_max_seconds * MICROS:
        checks.fail("ttl", f"must be more than 0 and at most {limits.ttl_max_seconds:g} s")
    return micros


def _price(checks: Checks, money: Money) -> str:
    if not 0 <= money.units <= _PRICE_MAX_UNITS or money.nanos < 0:
        checks.fail("list_price", "must be 0 to 9,999,999,999.99")
    if money.nanos % _NANOS_PER_CENT or not -(10**9) < money.nanos < 10**9:
        checks.fail("list_price.nanos", "must be whole cents")
    code = money.currency_code
    if not (len(code) == 3 and code.isascii() and code.isalpha() and code.isupper()):
        checks.fail("list_price.currency_code", "must be three capital letters (ISO 4217)")
    elif money.nanos and code in WITHOUT_CENTS:
        checks.fail("list_price.nanos", f"must be 0, because {code} has no cents")
    return f"{money.units}.{abs(money.nanos) // _NANOS_PER_CENT:02d}"


# -------------------------------------------------------------------- answers


@lru_cache(maxsize=4096)
def timestamp(instant: int) -> Timestamp:
    """Microseconds since 1970 as a protobuf Timestamp. Shared (a batch has one time): do not change it."""
    return Timestamp(seconds=instant // MICROS, nanos=instant % MICROS * 1000)


def reservation(value: Reservation) -> pb.Reservation:
    """A reservation as callers see it."""
    told = pb.Reservation()
    tell_reservation(value, told)
    return told


def tell_reservation(value: Reservation, told: pb.Reservation) -> None:
    """Write a reservation into an empty message, which may be a part of a greater one.

    A message that is made first and then put into another one is copied; so an answer is written where it stands.
    """
    told.reservation_id = value.reservation_id
    told.order_id = value.order_id
    told.state = _STATES[value.state]
    for line in value.lines:
        told.lines.add(
            product_id=line.product_id,
            warehouse_id=line.warehouse_id,
            quantity=line.quantity,
            requested_quantity=line.requested_quantity,
            committed_quantity=line.committed_quantity,
        )
    _tell_instant(value.expires_at, told.expires_at)
    _tell_instant(value.created_at, told.created_at)
    if value.closed_at is not None:
        _tell_instant(value.closed_at, told.closed_at)
    told.reason = value.reason
    told.correlation_id = value.correlation_id


def _tell_instant(instant: int, told: Timestamp) -> None:
    told.seconds = instant // MICROS
    told.nanos = instant % MICROS * 1000


def stock_level(level: Level) -> stock.StockLevel:
    """A stock level as callers see it."""
    return stock.StockLevel(
        product_id=level.product_id,
        warehouse_id=level.warehouse_id,
        on_hand=level.on_hand,
        reserved=level.reserved,
        available=level.available,
        version=level.version,
        created_at=timestamp(level.created_at),
        updated_at=timestamp(level.updated_at),
    )


def movement(value: Movement) -> stock.Movement:
    """A ledger row as callers see it."""
    return stock.Movement(
        product_id=value.product_id,
        warehouse_id=value.warehouse_id,
        sequence=value.sequence,
        type=_MOVEMENT_TYPES[MovementType(value.type)],
        quantity=value.quantity,
        on_hand_before=value.on_hand_before,
        on_hand_after=value.on_hand_after,
        reserved_before=value.reserved_before,
        reserved_after=value.reserved_after,
        reference=value.reference,
        notes=value.notes,
        actor=value.actor,
        correlation_id=value.correlation_id,
        created_at=timestamp(value.created_at),
        event_id=value.event_id,
    )


def product(value: Product) -> stock.Product:
    """A product as callers see it."""
    price = None
    if value.list_price is not None:
        cents = int(Decimal(value.list_price) * 100)
        price = Money(currency_code=value.currency, units=cents // 100, nanos=cents % 100 * _NANOS_PER_CENT)
    return stock.Product(
        product_id=value.product_id,
        sku=value.sku,
        name=value.name,
        description=value.description,
        list_price=price,
        created_at=timestamp(value.created_at),
        updated_at=timestamp(value.updated_at),
    )


def warehouse(value: Warehouse) -> stock.Warehouse:
    """A warehouse as callers see it."""
    return stock.Warehouse(
        warehouse_id=value.warehouse_id,
        code=value.code,
        name=value.name,
        priority=value.priority,
        created_at=timestamp(value.created_at),
        updated_at=timestamp(value.updated_at),
    )


class LevelAndMovement(TypedDict):
    """The two fields that all answers about changed stock have."""

    stock_level: stock.StockLevel
    movement: stock.Movement


def level_and_movement(answer: Answer) -> LevelAndMovement:
    """The fields of AddStockResponse, RemoveStockResponse and UpdateInventoryResponse."""
    assert answer.level is not None
    assert answer.movement is not None
    return {"stock_level": stock_level(answer.level), "movement": movement(answer.movement)}
