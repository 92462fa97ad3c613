"""Explains an order: where it stands, what is still to be done for it and why that is not done yet."""

from dataclasses import dataclass
from datetime import UTC, datetime

from order_gateway.audit.agreement import Owned
from order_gateway.audit.checking import Finding, OrdersAudit
from order_gateway.audit.rows import OpenStep, Row
from order_gateway.gateway.port import StockLine
from order_gateway.lifecycle import (
    Instant,
    Order,
    OrderNotFound,
    Status,
    Step,
    Stock,
    is_settled,
)
from order_gateway.storage.reading import Listing, OrderEvent
from order_gateway.storage.store import Store
from service_kit.times import from_microseconds

HAPPENINGS_MAX = 100
_FIRST_TRY = 0


@dataclass(frozen=True, slots=True)
class StepView:
    """A step that is still to be done.

    Attributes:
        request_id: what it goes out under.
        attempts: by the relay; the request that began it may have tried before.
        parked_at: since when it is tried only now and then, because it keeps failing.
    """

    step: Step
    request_id: str
    begun_at: Instant
    attempts: int
    last_error: str | None
    next_try_at: Instant
    parked_at: Instant | None


@dataclass(frozen=True, slots=True)
class OwnedView:
    """A reservation that the order asked for, as the warehouse has it now."""

    reservation_id: str
    state: str
    items: tuple[StockLine, ...]
    created_at: Instant
    expires_at: Instant


@dataclass(frozen=True, slots=True)
class Explanation:
    """An order, for those who want to know why it is as it is.

    Attributes:
        why: in words.
        warehouse_order_id: what the order is called in the warehouse.
        warehouse: what the warehouse holds or sold for it; null: it could not be asked.
        disagreement: how the order and the warehouse differ; null: they don't, or it is not known.
        repair: what `audit --repair` would do about that.
        history: the newest last, at most 100.
    """

    order_id: int
    status: Status
    stock: str
    payment: str
    why: tuple[str, ...]
    correlation_id: str
    warehouse_order_id: str
    created_at: Instant
    updated_at: Instant
    payment_deadline: Instant
    steps: tuple[StepView, ...]
    warehouse: tuple[OwnedView, ...] | None
    disagreement: str | None
    repair: str | None
    history: tuple[OrderEvent, ...]


class OrderExplainer:
    """Explains orders."""

    def __init__(self, audit: OrdersAudit, store: Store, listing: Listing) -> None:
        self._audit = audit
        self._store = store
        self._listing = listing

    async def explain(self, order_id: int) -> Explanation:
        """All that is known about an order. Raises: OrderNotFound, DatabaseFault."""
        order = await self._store.read(order_id)
        examined = await self._audit.examine(order_id)
        if examined is None:
            raise OrderNotFound(f"there is no order {order_id}")
        row, owned, finding = examined
        name = await self._store.name(order)
        newest = max(order.version - HAPPENINGS_MAX, 0)
        history = tuple(await self._listing.history(order_id, newest, HAPPENINGS_MAX))
        return Explanation(
            order_id=order.id,
            status=row.state.status,
            stock=row.state.stock,
            payment=row.state.payment,
            why=tuple(reasons(order, row, owned, finding)),
            correlation_id=order.correlation_id,
            warehouse_order_id=name.in_warehouse,
            created_at=order.created_at,
            updated_at=order.updated_at,
            payment_deadline=order.payment_deadline,
            steps=tuple(_step_view(step, name.request_id(step.step)) for step in row.steps),
            warehouse=None if owned is None else _owned_views(owned),
            disagreement=finding.text if finding else None,
            repair=finding.mending if finding else None,
            history=history,
        )


def reasons(order: Order, row: Row, owned: Owned | None, finding: Finding | None) -> list[str]:
    """Why an order is as it is, in sentences."""
    told = [_about(step) for step in row.steps]
    state = row.state
    if finding is not None:
        told.append(f"it {finding.text}; audit --repair: {finding.mending}")
    elif not told and is_settled(state) and state.status is Status.PENDING:
        told.append(f"it waits for its payment until {order.payment_deadline:%F %T} UTC; then it is cancelled")
    elif not told and is_settled(state) and state.stock is Stock.COMMITTED and state.status is Status.PAID:
        told.append("it is paid and sold; it waits to be shipped")
    elif not told:
        told.append(f"it is {state.status}; nothing remains to be done")
    if state.reason is not None:
        told.append(f"it was cancelled: {state.reason}")
    if order.refusal is not None:
        told.append(f"it was refused: {order.refusal.get('code')} {order.refusal.get('message')}")
    if owned is None:
        told.append("the warehouse could not be asked what it has for it")
    return told


def _about(step: OpenStep) -> str:
    next_try = f"next try {from_microseconds(step.due_at):%F %T} UTC"
    if step.parked_at is not None:
        since = f"{from_microseconds(step.parked_at):%F %T} UTC"
        return f"{step.step} keeps failing and is parked since {since}: {_tries(step)}; {next_try}"
    if step.attempts == _FIRST_TRY:
        return f"{step.step} is under way with the request that began it, or about to be; {next_try}"
    return f"{step.step} is still to be done: {_tries(step)}; {next_try}"


def _tries(step: OpenStep) -> str:
    failed = f", the last error: {step.last_error}" if step.last_error else ""
    return f"{step.attempts} tries{failed}"


def _step_view(step: OpenStep, request_id: str) -> StepView:
    return StepView(
        step.step,
        request_id,
        from_microseconds(step.begun_at),
        step.attempts,
        step.last_error,
        from_microseconds(step.due_at),
        None if step.parked_at is None else from_microseconds(step.parked_at),
    )


def _owned_views(owned: Owned) -> tuple[OwnedView, ...]:
    return tuple(
        OwnedView(hold.reservation_id, hold.state.lower(), hold.held_or_sold, hold.created_at, hold.expires_at)
        for hold in owned.reserve.holds
    )


def lines(explained: Explanation, now: datetime | None = None) -> list[str]:
    """An explanation for a terminal."""
    now = now or datetime.now(UTC)
    told = [
        f"order {explained.order_id}: {explained.status} (stock {explained.stock}, payment {explained.payment})",
        (
            f"made {explained.created_at:%F %T} UTC, changed {explained.updated_at:%F %T} UTC, "
            f"to be paid until {explained.payment_deadline:%F %T} UTC (it is {now:%F %T})"
        ),
        f"in the warehouse {explained.warehouse_order_id}, correlation id {explained.correlation_id}",
        *(f"why: {reason}" for reason in explained.why),
        *(f"step {step.step}: request id {step.request_id}, begun {step.begun_at:%F %T}" for step in explained.steps),
    ]
    for held in explained.warehouse or ():
        items = ", ".join(f"{line.quantity} x product {line.product_id}" for line in held.items)
        told.append(f"warehouse: {held.reservation_id} {held.state}, {items}, until {held.expires_at:%F %T} UTC")
    if explained.warehouse == ():
        told.append("warehouse: nothing was ever held for it")
    for one in explained.history:
        note = f" ({one.note})" if one.note else ""
        told.append(f"{one.at:%F %T}  {one.event:22} {one.status:20} by {one.actor}{note}")
    return told
