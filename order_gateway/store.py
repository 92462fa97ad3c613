"""The order database: orders are made and changed here, each change in one transaction with the steps it begins.

Nothing here talks to anything but the database. Times are the database's, in UTC.
"""

import itertools
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway import tables
from order_gateway.gateway import Hold
from order_gateway.intents import begin, end, now_of
from order_gateway.orders import (
    NEW,
    Event,
    Illegal,
    NewOrder,
    Order,
    Payment,
    Reason,
    State,
    Status,
    Step,
    Transition,
    advance,
)
from order_gateway.rows import load_order
from service_kit.database import Database

NOTE_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Change:
    """An event of an order and what it brings along.

    Attributes:
        lease_seconds: how long the steps that begin with it are left to the caller, before the relay takes over.
    """

    event: Event
    actor: str = "system"
    reason: Reason | None = None
    note: str | None = None
    hold: Hold | None = None
    refusal: Mapping[str, Any] | None = None
    payment_method: str | None = None
    payment_reference: str | None = None
    provider_reference: str | None = None
    lease_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """An order after an event, and what the event did."""

    order: Order
    result: Transition | Illegal


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Time bounds of orders, in seconds."""

    payment_window_seconds: float
    hold_grace_seconds: float


class Store:
    """The orders, and what remains to be done for them."""

    def __init__(self, database: Database, settings: StoreSettings) -> None:
        self._database = database
        self._settings = settings
        self._token: str | None = None

    async def token(self) -> str:
        """What makes this installation's request ids its own."""
        if self._token is None:

            async def work(connection: AsyncConnection) -> str:
                fresh = insert(tables.installation).prefix_with("IGNORE").values(id=1, token=secrets.token_hex(4))
                await connection.execute(fresh)
                return str((await connection.execute(select(tables.installation.c.token))).scalar_one())

            self._token = await self._database.run_in_transaction(work)
        return self._token

    async def create(self, new: NewOrder, lease_seconds: float, key: tuple[str, str] | None = None) -> Order:
        """Write a new order, in pending_reservation, with its RESERVE step.

        Args:
            key: owner and Idempotency-Key of the request that makes it; remembered with the order's id.
        """

        placement, tries = uuid.uuid4().hex, itertools.count()

        async def work(connection: AsyncConnection) -> Order:
            if next(tries) and (made := await _find_placement(connection, placement)) is not None:
                return (await load_order(connection, made, lock=False))[0]
            now = await now_of(connection)
            order_id = await _insert_order(connection, new, placement, now, self._settings.payment_window_seconds)
            await _write_history(connection, order_id, now, None, NEW, "created", new.actor, None, new.correlation_id)
            await begin(connection, order_id, (Step.RESERVE,), now, lease_seconds)
            if key is not None:
                await _link_key(connection, key, order_id)
            return (await load_order(connection, order_id, lock=False))[0]

        return await self._database.run_in_transaction(work)

    async def read(self, order_id: int) -> Order:
        """One order. Raises: OrderNotFound."""

        async def work(connection: AsyncConnection) -> Order:
            return (await load_order(connection, order_id, lock=False))[0]

        return await self._database.run_in_transaction(work)

    async def apply(self, order_id: int, change: Change) -> Applied:
        """Let an event happen to an order, if it can; write what follows from it. Raises: OrderNotFound."""

        async def work(connection: AsyncConnection) -> Applied:
            order, now = await load_order(connection, order_id, lock=True)
            result = self._decide(order, change, now)
            if isinstance(result, Illegal):
                return Applied(order, result)
            if result.ends:
                await end(connection, order_id, result.ends, now)
            if result.state == order.state:
                return Applied(order, result)
            await self._write(connection, order, change, result, now)
            return Applied((await load_order(connection, order_id, lock=False))[0], result)

        return await self._database.run_in_transaction(work)

    async def unpaid_past_deadline(self, limit: int) -> list[int]:
        """Orders that have waited in vain for their payment to begin, at most `limit`."""
        orders = tables.orders.c
        query = (
            select(orders.id)
            .where(orders.status == Status.PENDING, orders.payment == Payment.NONE)
            .where(orders.payment_deadline <= func.now(6))
            .order_by(orders.payment_deadline)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[int]:
            return [int(row.id) for row in await connection.execute(query)]

        return await self._database.run_in_transaction(work)

    def _decide(self, order: Order, change: Change, now: datetime) -> Transition | Illegal:
        late = now >= order.payment_deadline
        if change.event is Event.DEADLINE_PASSED and not late:
            return Transition(order.state)
        if change.event is Event.PAY and late and order.state.status is Status.PENDING:
            return Illegal("PAYMENT_EXPIRED", "the time to pay this order has run out; place a new order")
        return advance(order.state, change.event, change.reason)

    async def _write(
        self, connection: AsyncConnection, order: Order, change: Change, result: Transition, now: datetime
    ) -> None:
        after = result.state
        values: dict[str, Any] = {
            "status": after.status,
            "stock": after.stock,
            "payment": after.payment,
            "reason": after.reason,
            "updated_at": now,
        }
        if change.hold is not None:
            # The hold must outlive the deadline, whenever its answer came in.
            values["payment_deadline"] = _naive(change.hold.expires_at) - timedelta(
                seconds=self._settings.hold_grace_seconds
            )
            await _write_hold(connection, order.id, change.hold)
        if change.refusal is not None:
            values["refusal"] = change.refusal
        if change.event is Event.PAY:
            values["payment_method"] = change.payment_method or order.payment_method
            values["payment_reference"] = change.payment_reference
        await connection.execute(update(tables.orders).where(tables.orders.c.id == order.id).values(values))
        await _write_payment(connection, order, change, now)
        await _write_history(
            connection,
            order.id,
            now,
            order.state,
            after,
            change.event,
            change.actor,
            change.note,
            order.correlation_id,
        )
        await begin(connection, order.id, result.begins, now, change.lease_seconds)


def _naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


async def _find_placement(connection: AsyncConnection, placement: str) -> int | None:
    """The order that an earlier try made whose COMMIT was not answered."""
    return (
        await connection.execute(select(tables.orders.c.id).where(tables.orders.c.placement == placement))
    ).scalar_one_or_none()


async def _insert_order(
    connection: AsyncConnection, new: NewOrder, placement: str, now: datetime, window_seconds: float
) -> int:
    made = await connection.execute(
        insert(tables.orders).values(
            user_id=new.user_id,
            status=NEW.status,
            stock=NEW.stock,
            payment=NEW.payment,
            way=new.way,
            total_amount=new.total_amount,
            shipping_address=new.shipping_address,
            payment_method=new.payment_method,
            payment_deadline=now + timedelta(seconds=window_seconds),
            correlation_id=new.correlation_id,
            placement=placement,
            created_at=now,
            updated_at=now,
        )
    )
    assert made.inserted_primary_key is not None
    order_id = int(made.inserted_primary_key[0])
    await connection.execute(
        insert(tables.items),
        [
            {
                "order_id": order_id,
                "product_id": item.product_id,
                "warehouse_id": item.warehouse_id,
                "quantity": item.quantity,
                "unit_price": item.unit_price,
                "total_price": item.total_price,
            }
            for item in new.items
        ],
    )
    return order_id


async def _write_hold(connection: AsyncConnection, order_id: int, hold: Hold) -> None:
    await connection.execute(
        insert(tables.reservations),
        [
            {
                "order_id": order_id,
                "reservation_id": hold.reservation_id,
                "product_id": line.product_id,
                "warehouse_id": line.warehouse_id,
                "quantity": line.quantity,
                "expires_at": _naive(hold.expires_at),
                "created_at": _naive(hold.created_at),
            }
            for line in hold.lines
        ],
    )


async def _write_payment(connection: AsyncConnection, order: Order, change: Change, now: datetime) -> None:
    payments = tables.payments
    if change.event is Event.PAY:
        await connection.execute(
            insert(payments).values(
                order_id=order.id,
                amount=order.total_amount,
                method=change.payment_method or order.payment_method,
                reference=change.payment_reference,
                created_at=now,
            )
        )
    elif change.event is Event.CHARGED:
        paid = update(payments).where(payments.c.order_id == order.id)
        await connection.execute(paid.values(charged_at=now, provider_reference=change.provider_reference))
    elif change.event is Event.REFUNDED:
        await connection.execute(update(payments).where(payments.c.order_id == order.id).values(refunded_at=now))


async def _write_history(
    connection: AsyncConnection,
    order_id: int,
    now: datetime,
    before: State | None,
    after: State,
    event: str,
    actor: str,
    note: str | None,
    correlation_id: str,
) -> None:
    await connection.execute(
        insert(tables.history).values(
            order_id=order_id,
            event=event,
            status_before=before.status if before else None,
            status_after=after.status,
            note=note[:NOTE_LENGTH_MAX] if note else None,
            actor=actor,
            correlation_id=correlation_id,
            created_at=now,
        )
    )


async def _link_key(connection: AsyncConnection, key: tuple[str, str], order_id: int) -> None:
    columns = tables.idempotency_keys.c
    await connection.execute(
        update(tables.idempotency_keys)
        .where(columns.owner == key[0], columns.idempotency_key == key[1])
        .values(order_id=order_id)
    )
