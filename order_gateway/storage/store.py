"""The orders: every change of one is an event, written in one transaction with the outside steps that follow from it.

What comes at the same time shares a transaction: new orders, changes, and reads are three batches under way at once.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.allocation import ChosenWarehouses, chosen_warehouses, placed
from order_gateway.gateway.port import Hold
from order_gateway.identity import OrderName, name_of, new_request_key
from order_gateway.lifecycle import (
    Event,
    Illegal,
    NewOrder,
    Order,
    OrderNotFound,
    Payment,
    Reason,
    Status,
    Step,
    Transition,
    Way,
    advance,
    is_open,
)
from order_gateway.storage import tables
from order_gateway.storage.changing import Applied, Changes, Changing, Work
from order_gateway.storage.placing import KeyClaim, Placement, Placing
from order_gateway.storage.rows import from_microseconds, reservations_after, to_microseconds
from service_kit.background import Watched
from service_kit.batcher import Batcher, BatcherSettings
from service_kit.database.database import Database
from service_kit.tracing import current_traceparent

NOTE_LENGTH_MAX = 255
SYSTEM = "system"
"""The actor of what nobody wished."""


class Change(msgspec.Struct, frozen=True):
    """An event of an order and what it brings along.

    Attributes:
        payment_provider: who is asked to take the money of a PAY.
        provider_reference: their number for the payment; of a REFUND_CONFIRMED, for the refund.
        lease_seconds: how long the steps that begin with it are left to the caller, before the relay takes over.
        places: the warehouses of the order's lines from now on.
        about: the warehouses that a RESERVE_REFUSED or WAREHOUSE_CHOSEN is about; where the order has others by now,
            it does nothing.
    """

    event: Event
    actor: str = SYSTEM
    reason: Reason | None = None
    note: str | None = None
    hold: Hold | None = None
    refusal: Mapping[str, Any] | None = None
    payment_method: str | None = None
    payment_reference: str | None = None
    payment_provider: str | None = None
    provider_reference: str | None = None
    lease_seconds: float = 0
    places: ChosenWarehouses | None = None
    about: tuple[int | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Time bounds of orders, in seconds."""

    payment_window_seconds: float
    hold_grace_seconds: float


class Store:
    """The orders, and what remains to be done for them. Close it before its database."""

    def __init__(self, database: Database, settings: StoreSettings, batches: BatcherSettings | None = None) -> None:
        self._database = database
        self._settings = settings
        self._token: str | None = None
        self._token_lock = asyncio.Lock()
        self._placing = Placing(database, settings.payment_window_seconds)
        self._changing = Changing(database, self._apply_event)
        self._placements: Batcher[Placement, Order] = Batcher(self._placing.process, batches, "placing batcher")
        self._changes: Batcher[Work[tuple[Change, str]], Applied] = Batcher(
            self._changing.process, batches, "changing batcher"
        )
        self._reads: Batcher[int, Order] = Batcher(self._changing.read, batches, "reading batcher")
        self._is_started = False

    @property
    def batchers(self) -> tuple[Watched, ...]:
        """What goes on in the background."""
        return (self._placements, self._changes, self._reads)

    async def token(self) -> str:
        """What makes this installation's request ids its own."""
        if self._token is None:
            async with self._token_lock:
                if self._token is None:
                    self._token = await self._database.run_in_transaction(_read_token)
        return self._token

    async def name(self, order: Order) -> OrderName:
        """What an order is called outside."""
        return name_of(await self.token(), order)

    async def create(self, new: NewOrder, lease_seconds: float, key: KeyClaim | None = None) -> Order:
        """Write a new order, in pending_reservation, with its RESERVE step.

        Args:
            key: of the request that makes it; remembered with the order's id.

        Raises: ClaimLost, DatabaseFault, BatcherFull.
        """
        self._start()
        request_key = new_request_key()
        # It begins with the time: what is made together stands together in an index.
        token = f"{time.time_ns() // 1_000_000:012x}{request_key}"
        return await self._placements.submit(
            Placement(new, token, request_key, lease_seconds, key, current_traceparent())
        )

    async def read(self, order_id: int) -> Order:
        """One order. Raises: OrderNotFound, DatabaseFault, BatcherFull."""
        self._start()
        return await self._reads.submit(order_id)

    async def apply(self, order_id: int, change: Change, known: Order | None = None) -> Applied:
        """Let an event happen to an order, if it can; write what follows from it.

        Args:
            known: the order as the caller saw it last; it is not read again if it is still so.

        Raises: OrderNotFound, DatabaseFault, BatcherFull.
        """
        self._start()
        return await self._changes.submit(Work(order_id, (change, current_traceparent()), known))

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

    async def close(self) -> None:
        """Finish what is under way, and hang up."""
        if self._is_started:
            for batcher in (self._placements, self._changes, self._reads):
                await batcher.close()
            await self._placing.close()
            await self._changing.close()

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            for batcher in (self._placements, self._changes, self._reads):
                batcher.start()

    def _apply_event(self, order: Order, work: tuple[Change, str], changes: Changes, now: int) -> Applied:
        """What an event does to an order; called again if the transaction is."""
        change, traceparent = work
        result = self._decide(order, change, now)
        if isinstance(result, Illegal):
            return Applied(order, result)
        for step in result.ends:
            changes.end(order.id, step)
        if not _has_effect(order, change, result):
            return Applied(order, result)
        if change.event is Event.DEFERRED:
            changes.make_due(order.id, Step.RESERVE, now)
        # Also where the database's clock has stepped back, nothing is written to be before what it follows.
        at = max(now, to_microseconds(order.updated_at) + 1)
        after = self._after(order, change, result, now, at)
        changes.note(order, after)
        _add_payment(changes, after, change, at)
        note = change.note[:NOTE_LENGTH_MAX] if change.note else None
        changes.add_history(order, after, change.event, change.actor, note, at)
        for step in result.begins:
            changes.begin(order.id, step, now, change.lease_seconds, traceparent)
        if change.hold is not None:
            changes.add_hold(order.id, change.hold)
        return Applied(after, result)

    def _decide(self, order: Order, change: Change, now: int) -> Transition | Illegal:
        late = from_microseconds(now) >= order.payment_deadline
        if change.event is Event.DEADLINE_PASSED and not late:
            return Transition(order.state)
        if change.event is Event.PAY and late and order.state.status is Status.PENDING:
            return Illegal("PAYMENT_EXPIRED", "the time to pay this order has run out; place a new order")
        if change.about is not None and change.about != chosen_warehouses(order.items):
            return Transition(order.state)
        return advance(order.state, change.event, change.reason)

    def _after(self, order: Order, change: Change, result: Transition, now: int, at: int) -> Order:
        """The order after an event that is written to have happened `at`, while the clock says `now`."""
        values: dict[str, Any] = {
            "version": order.version + 1,
            "state": result.state,
            "updated_at": from_microseconds(at),
            "reservations": reservations_after(order, change.hold, result.state, now),
        }
        if change.event is Event.DEFERRED:
            values["way"] = Way.QUEUED
        if change.hold is not None:
            # The hold must outlive the deadline, whenever its answer came in.
            grace = timedelta(seconds=self._settings.hold_grace_seconds)
            values["payment_deadline"] = change.hold.expires_at - grace
        if change.actor != SYSTEM:
            values["actor"] = change.actor
        if change.places is not None and change.places != chosen_warehouses(order.items):
            values["items"] = placed(order.items, change.places)
            values["warehouse_changes"] = order.warehouse_changes + (None not in chosen_warehouses(order.items))
        if change.refusal is not None:
            values["refusal"] = dict(change.refusal)
        if change.event is Event.PAY:
            values["payment_method"] = change.payment_method or order.payment_method
            values["payment_reference"] = change.payment_reference
            values["payment_provider"] = change.payment_provider
        return replace(order, **values)


async def _read_token(connection: AsyncConnection) -> str:
    fresh = insert(tables.installation).prefix_with("IGNORE").values(id=1, token=secrets.token_hex(4))
    await connection.execute(fresh)
    return str((await connection.execute(select(tables.installation.c.token))).scalar_one())


def _has_effect(order: Order, change: Change, result: Transition) -> bool:
    """Whether an event leaves something to be written; two kinds do although the state stays as it is."""
    if change.event is Event.DEFERRED:
        return order.state.status is Status.PENDING_RESERVATION and order.way is not Way.QUEUED
    if change.event is Event.WAREHOUSE_CHOSEN:
        return is_open(order.state, Step.RESERVE) and chosen_warehouses(order.items) == change.about
    return result.state != order.state


def _add_payment(changes: Changes, order: Order, change: Change, now: int) -> None:
    if change.event is Event.PAY:
        changes.add_payment(order, now)
    elif change.event is Event.CHARGED:
        changes.note_charge(order.id, now, change.provider_reference)
    elif change.event is Event.REFUNDED:
        changes.note_refund(order.id, now)
    elif change.event is Event.REFUND_REQUESTED:
        changes.request_refund(order, now)
    elif change.event is Event.REFUND_CONFIRMED:
        changes.confirm_refund(order.id, now, change.actor, change.provider_reference)


__all__ = ["Applied", "Change", "OrderNotFound", "Store", "StoreSettings"]
