"""PURE: the life of an order. What may happen in which state, and which outside steps follow from it.

An order has three faces. `status` is what the customer sees; `stock` is what the warehouse was last asked to
do for it; `payment` is the same for the payment provider. An event moves all three at once, and names the
outside steps that begin with it (they are written down in the same transaction, then done) and that it ends.

    pending_reservation --reserved--> pending --charged--> paid --> shipped --> completed
            |                            |                   |
            +--refused--> rejected       |                   +--cancel before shipping--> cancelled
            +--abandoned--> cancelled    +--cancel / declined / deadline passed--> cancelled

CHARGE takes the money in one step: the hold is made sure of, the amount is authorised, then captured. COMMIT follows.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone."""
CURRENCY_UNLESS_SAID = "USD"
"""The ISO 4217 code of amounts that come without one, unless configured otherwise."""


class Status(StrEnum):
    """What the customer sees."""

    PENDING_RESERVATION = "pending_reservation"
    PENDING = "pending"
    PAID = "paid"
    SHIPPED = "shipped"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Stock(StrEnum):
    """What the warehouse holds for the order, or is being asked to do."""

    RESERVING = "reserving"
    HELD = "held"
    COMMITTING = "committing"
    COMMITTED = "committed"
    RELEASING = "releasing"
    FREE = "free"
    RETURNING = "returning"
    RETURNED = "returned"


class Payment(StrEnum):
    """What the payment provider has done for the order, or is being asked to do."""

    NONE = "none"
    CHARGING = "charging"
    CHARGED = "charged"
    DECLINED = "declined"
    REFUNDING = "refunding"
    REFUND_REQUESTED = "refund_requested"
    """Whoever took the money has been asked to give it back, and has not confirmed that yet."""
    REFUNDED = "refunded"


class Step(StrEnum):
    """Something done outside this service's database; written down before it is done."""

    RESERVE = "reserve"
    CHARGE = "charge"
    COMMIT = "commit"
    CANCEL = "cancel"
    REFUND = "refund"
    GIVE_BACK = "give_back"


class Reason(StrEnum):
    """Why an order was cancelled."""

    CUSTOMER = "customer"
    ADMIN = "admin"
    PAYMENT_DECLINED = "payment_declined"
    PAYMENT_EXPIRED = "payment_expired"
    RESERVATION_EXPIRED = "reservation_expired"
    RESERVATION_TIMEOUT = "reservation_timeout"


class Way(StrEnum):
    """How an order reaches the warehouse: by a call while the customer waits, or by the relay afterwards."""

    GRPC = "grpc"
    QUEUED = "queued"


class Event(StrEnum):
    """Something that happened to an order: a wish of a person, the clock, or the outcome of a step."""

    RESERVED = "reserved"
    RESERVE_REFUSED = "reserve_refused"
    RESERVE_ABANDONED = "reserve_abandoned"
    DEFERRED = "deferred"
    WAREHOUSE_CHOSEN = "warehouse_chosen"
    PAY = "pay"
    CHARGED = "charged"
    DECLINED = "declined"
    CHARGE_ABANDONED = "charge_abandoned"
    HOLD_LOST = "hold_lost"
    COMMITTED = "committed"
    COMMIT_REFUSED = "commit_refused"
    DEADLINE_PASSED = "deadline_passed"
    CANCEL = "cancel"
    RELEASED = "released"
    RELEASE_FOUND_COMMITTED = "release_found_committed"
    REFUNDED = "refunded"
    REFUND_REQUESTED = "refund_requested"
    REFUND_CONFIRMED = "refund_confirmed"
    RETURNED = "returned"
    SHIP = "ship"
    COMPLETE = "complete"


class State(msgspec.Struct, frozen=True):
    """The three faces of an order, and why it was cancelled."""

    status: Status
    stock: Stock
    payment: Payment
    reason: Reason | None = None


class Transition(msgspec.Struct, frozen=True):
    """What an event does: the state after it, the steps it begins and those it ends."""

    state: State
    begins: tuple[Step, ...] = ()
    ends: tuple[Step, ...] = ()


class Illegal(msgspec.Struct, frozen=True):
    """The event can't happen in this state; nothing changes."""

    code: str
    message: str


NEW = State(Status.PENDING_RESERVATION, Stock.RESERVING, Payment.NONE)
"""A new order; its RESERVE step begins with it."""

ENDS: Mapping[Event, tuple[Step, ...]] = {
    Event.RESERVED: (Step.RESERVE,),
    Event.RESERVE_REFUSED: (Step.RESERVE,),
    Event.RESERVE_ABANDONED: (Step.RESERVE,),
    Event.CHARGED: (Step.CHARGE,),
    Event.DECLINED: (Step.CHARGE,),
    Event.CHARGE_ABANDONED: (Step.CHARGE,),
    Event.HOLD_LOST: (Step.CHARGE,),
    Event.COMMITTED: (Step.COMMIT,),
    Event.COMMIT_REFUSED: (Step.COMMIT,),
    Event.RELEASED: (Step.CANCEL,),
    Event.RELEASE_FOUND_COMMITTED: (Step.CANCEL,),
    Event.REFUNDED: (Step.REFUND,),
    Event.REFUND_REQUESTED: (Step.REFUND,),
    Event.RETURNED: (Step.GIVE_BACK,),
}
"""Which step each outcome concludes, also when it arrives a second time."""


class _Rule(msgspec.Struct, frozen=True):
    """Where its conditions hold, an event changes the named faces and begins the named steps."""

    status: Status
    stock: Stock | None = None
    payment: Payment | None = None
    to_status: Status | None = None
    to_stock: Stock | None = None
    to_payment: Payment | None = None
    reason: Reason | None = None
    begins: tuple[Step, ...] = ()

    def holds(self, state: State) -> bool:
        return (
            self.status is state.status and self.stock in (None, state.stock) and self.payment in (None, state.payment)
        )


_CANCELLED = Status.CANCELLED
_PENDING = Status.PENDING
_PAID = Status.PAID
_RULES: Mapping[Event, tuple[_Rule, ...]] = {
    Event.RESERVED: (
        _Rule(Status.PENDING_RESERVATION, to_status=_PENDING, to_stock=Stock.HELD),
        # Two did the step, and the one that was refused was noted first.
        _Rule(Status.REJECTED, Stock.FREE, to_stock=Stock.RELEASING, begins=(Step.CANCEL,)),
    ),
    Event.RESERVE_REFUSED: (_Rule(Status.PENDING_RESERVATION, to_status=Status.REJECTED, to_stock=Stock.FREE),),
    Event.RESERVE_ABANDONED: (
        _Rule(
            Status.PENDING_RESERVATION,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            reason=Reason.RESERVATION_TIMEOUT,
            begins=(Step.CANCEL,),
        ),
    ),
    # It goes on by the queue; the RESERVE step stays open, under the same request id.
    Event.DEFERRED: (_Rule(Status.PENDING_RESERVATION),),
    # So does it when other warehouses are to be asked: a refusal has no effect, and the warehouse keeps none.
    Event.WAREHOUSE_CHOSEN: (_Rule(Status.PENDING_RESERVATION),),
    Event.PAY: (_Rule(_PENDING, payment=Payment.NONE, to_payment=Payment.CHARGING, begins=(Step.CHARGE,)),),
    Event.CHARGED: (
        _Rule(
            _PENDING,
            payment=Payment.CHARGING,
            to_status=_PAID,
            to_stock=Stock.COMMITTING,
            to_payment=Payment.CHARGED,
            begins=(Step.COMMIT,),
        ),
    ),
    Event.DECLINED: (
        _Rule(
            _PENDING,
            payment=Payment.CHARGING,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            to_payment=Payment.DECLINED,
            reason=Reason.PAYMENT_DECLINED,
            begins=(Step.CANCEL,),
        ),
    ),
    # Whether the provider took the money is not known: the refund makes sure that it did not, or gives it back.
    Event.CHARGE_ABANDONED: (
        _Rule(
            _PENDING,
            payment=Payment.CHARGING,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            to_payment=Payment.REFUNDING,
            reason=Reason.PAYMENT_EXPIRED,
            begins=(Step.CANCEL, Step.REFUND),
        ),
    ),
    # What it held is gone, so it is not charged. An earlier try may have done that already, and a process that was
    # taken for dead may be about to: the refund sees to it that no money is kept either way.
    Event.HOLD_LOST: (
        _Rule(
            _PENDING,
            payment=Payment.CHARGING,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            to_payment=Payment.REFUNDING,
            reason=Reason.RESERVATION_EXPIRED,
            begins=(Step.CANCEL, Step.REFUND),
        ),
    ),
    Event.COMMITTED: (
        _Rule(_PAID, Stock.COMMITTING, to_stock=Stock.COMMITTED),
        _Rule(_CANCELLED, Stock.COMMITTING, to_stock=Stock.RETURNING, begins=(Step.GIVE_BACK,)),
    ),
    Event.COMMIT_REFUSED: (
        _Rule(
            _PAID,
            Stock.COMMITTING,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            to_payment=Payment.REFUNDING,
            reason=Reason.RESERVATION_EXPIRED,
            begins=(Step.CANCEL, Step.REFUND),
        ),
        _Rule(_CANCELLED, Stock.COMMITTING, to_stock=Stock.RELEASING, begins=(Step.CANCEL,)),
    ),
    Event.DEADLINE_PASSED: (
        _Rule(
            _PENDING,
            payment=Payment.NONE,
            to_status=_CANCELLED,
            to_stock=Stock.RELEASING,
            reason=Reason.PAYMENT_EXPIRED,
            begins=(Step.CANCEL,),
        ),
    ),
    Event.CANCEL: (
        # The RESERVE step is still to come or under way: the fence makes both orders of arrival end the same.
        _Rule(Status.PENDING_RESERVATION, to_status=_CANCELLED, to_stock=Stock.RELEASING, begins=(Step.CANCEL,)),
        _Rule(_PENDING, payment=Payment.NONE, to_status=_CANCELLED, to_stock=Stock.RELEASING, begins=(Step.CANCEL,)),
        _Rule(
            _PAID,
            Stock.COMMITTED,
            to_status=_CANCELLED,
            to_stock=Stock.RETURNING,
            to_payment=Payment.REFUNDING,
            begins=(Step.REFUND, Step.GIVE_BACK),
        ),
        _Rule(_PAID, Stock.COMMITTING, to_status=_CANCELLED, to_payment=Payment.REFUNDING, begins=(Step.REFUND,)),
        _Rule(_CANCELLED),
    ),
    Event.RELEASED: (
        _Rule(_CANCELLED, Stock.RELEASING, to_stock=Stock.FREE),
        _Rule(Status.REJECTED, Stock.RELEASING, to_stock=Stock.FREE),
    ),
    Event.RELEASE_FOUND_COMMITTED: (
        # Sold, though nobody was charged as far as is known here, which may be a database that was restored: the
        # refund gives back whatever was taken.
        _Rule(
            _CANCELLED,
            Stock.RELEASING,
            Payment.NONE,
            to_stock=Stock.RETURNING,
            to_payment=Payment.REFUNDING,
            begins=(Step.GIVE_BACK, Step.REFUND),
        ),
        _Rule(_CANCELLED, Stock.RELEASING, to_stock=Stock.RETURNING, begins=(Step.GIVE_BACK,)),
    ),
    Event.REFUNDED: (_Rule(_CANCELLED, payment=Payment.REFUNDING, to_payment=Payment.REFUNDED),),
    # It is no step of ours any more, and the stock does not wait for it.
    Event.REFUND_REQUESTED: (_Rule(_CANCELLED, payment=Payment.REFUNDING, to_payment=Payment.REFUND_REQUESTED),),
    Event.REFUND_CONFIRMED: (
        _Rule(_CANCELLED, payment=Payment.REFUND_REQUESTED, to_payment=Payment.REFUNDED),
        _Rule(_CANCELLED, payment=Payment.REFUNDED),
    ),
    Event.RETURNED: (_Rule(_CANCELLED, Stock.RETURNING, to_stock=Stock.RETURNED),),
    Event.SHIP: (_Rule(_PAID, Stock.COMMITTED, to_status=Status.SHIPPED), _Rule(Status.SHIPPED)),
    Event.COMPLETE: (_Rule(Status.SHIPPED, to_status=Status.COMPLETED), _Rule(Status.COMPLETED)),
}


_TOO_LATE_TO_MATTER = frozenset({Event.DEADLINE_PASSED, Event.DEFERRED, Event.WAREHOUSE_CHOSEN})
"""Events without a step of their own that change nothing where no rule holds."""


@lru_cache(maxsize=4096)
def advance(state: State, event: Event, reason: Reason | None = None) -> Transition | Illegal:
    """What `event` does to an order in `state`.

    The outcome of a step that arrives again, or too late to matter, ends the step and changes nothing.

    Args:
        reason: of a CANCEL, which has no reason of its own.
    """
    ends = ENDS.get(event, ())
    for rule in _RULES[event]:
        if rule.holds(state):
            after = replace(
                state,
                status=rule.to_status or state.status,
                stock=rule.to_stock or state.stock,
                payment=rule.to_payment or state.payment,
            )
            if after.status is _CANCELLED and state.status is not _CANCELLED:
                after = replace(after, reason=rule.reason or reason or Reason.CUSTOMER)
                ends = (*ends, *((Step.RESERVE,) if state.stock is Stock.RESERVING and not ends else ()))
            return Transition(after, rule.begins, ends)
    if ends or event in _TOO_LATE_TO_MATTER:
        return Transition(state, (), ends)
    return _illegal(state, event)


_OPEN: Mapping[Step, Stock | Payment] = {
    Step.RESERVE: Stock.RESERVING,
    Step.CHARGE: Payment.CHARGING,
    Step.COMMIT: Stock.COMMITTING,
    Step.CANCEL: Stock.RELEASING,
    Step.REFUND: Payment.REFUNDING,
    Step.GIVE_BACK: Stock.RETURNING,
}


def is_open(state: State, step: Step) -> bool:
    """Whether the order still waits for the outcome of `step`."""
    return _OPEN[step] in (state.stock, state.payment)


def is_settled(state: State) -> bool:
    """Whether nothing outside remains to be done for the order as it stands (it may still be paid or shipped)."""
    return not any(is_open(state, step) for step in Step)


def _illegal(state: State, event: Event) -> Illegal:
    if state.status is _PENDING and state.payment is Payment.CHARGING:
        return Illegal("PAYMENT_IN_PROGRESS", "a payment of this order is under way; look at the order again shortly")
    if event is Event.SHIP and state.status is _PAID:
        return Illegal("ORDER_NOT_SETTLED", "the warehouse has not confirmed the sale yet; try again shortly")
    wish = {Event.PAY: "paid", Event.CANCEL: "cancelled", Event.SHIP: "shipped", Event.COMPLETE: "completed"}
    if event is Event.REFUND_CONFIRMED:
        return Illegal("INVALID_ORDER_STATE", f"no refund of this order waits for you; its payment is {state.payment}")
    return Illegal("INVALID_ORDER_STATE", f"an order that is {state.status} can't be {wish.get(event, event)}")


class Item(msgspec.Struct, frozen=True):
    """A line of an order.

    Attributes:
        warehouse_id: None: not chosen yet.
        any_warehouse: whether the choice is ours, because the customer named none.
        currency: of both prices; the order's.
    """

    id: int
    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal
    total_price: Decimal
    any_warehouse: bool = False
    currency: str = CURRENCY_UNLESS_SAID


# What an order keeps of its hold. Clients see it, and the HTTP document has its name: else it would be called a hold.
class Reservation(msgspec.Struct, frozen=True):
    """What the warehouse holds or held for one line of an order."""

    id: int
    reservation_id: str
    order_id: int
    product_id: int
    warehouse_id: int
    quantity: int
    expires_at: Instant
    is_active: bool
    is_confirmed: bool
    created_at: Instant


class Order(msgspec.Struct, frozen=True):
    """An order as its owner sees it, and its inner state.

    Attributes:
        version: how many events it has seen; the first one made it.
        actor: who placed it, or was the last to wish something for it; its steps are done on their behalf.
        warehouse_changes: how often other warehouses were chosen for it.
        request_key: random, its own; see `identity`.
        currency: of all its amounts, an ISO 4217 code.
        payment_provider: the name of the one who was asked to take the money; None before that.
    """

    id: int
    version: int
    user_id: str
    state: State
    way: Way
    total_amount: Decimal
    shipping_address: str
    payment_method: str
    payment_reference: str | None
    payment_deadline: Instant
    created_at: Instant
    updated_at: Instant
    correlation_id: str
    refusal: dict[str, Any] | None
    actor: str
    warehouse_changes: int
    items: tuple[Item, ...]
    reservations: tuple[Reservation, ...]
    currency: str = CURRENCY_UNLESS_SAID
    payment_provider: str | None = None
    request_key: str = ""


class OrderNotFound(Exception):
    """There is no such order."""


class NewItem(msgspec.Struct, frozen=True):
    """A line of an order to be made; prices are to the cent, the warehouse is as in `Item`."""

    product_id: int
    warehouse_id: int | None
    quantity: int
    unit_price: Decimal
    any_warehouse: bool = False
    currency: str = CURRENCY_UNLESS_SAID

    @property
    def total_price(self) -> Decimal:
        """Exactly quantity times price."""
        return self.unit_price * self.quantity


class NewOrder(msgspec.Struct, frozen=True):
    """An order to be made."""

    user_id: str
    shipping_address: str
    payment_method: str
    items: tuple[NewItem, ...]
    correlation_id: str
    actor: str
    way: Way = Way.GRPC

    @property
    def total_amount(self) -> Decimal:
        """Exactly the sum of the lines."""
        return sum((item.total_price for item in self.items), Decimal("0.00"))

    @property
    def currency(self) -> str:
        """The one that all lines share."""
        return self.items[0].currency
