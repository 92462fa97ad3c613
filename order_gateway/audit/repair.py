"""Makes orders agree with the warehouse again; touches only what they asked for under their own request ids.

Where that can't be proved it does nothing: a person has to look.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.audit.agreement import Mending
from order_gateway.audit.checking import Finding
from order_gateway.gateway.port import (
    Call,
    Done,
    GatewayFault,
    Hold,
    HoldState,
    Refusal,
    StockLine,
    WarehouseGateway,
)
from order_gateway.lifecycle import Event, Order, Reason, Status, Step, is_open
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga, StepFault
from order_gateway.storage.applying import Change
from order_gateway.storage.store import Store
from service_kit.database.database import Database

log = structlog.get_logger(__name__)
_REOPEN_STEP = text(
    "INSERT INTO intents (order_id, step, due_at, created_at) VALUES (:order_id, :step, NOW(6), NOW(6))"
    " ON DUPLICATE KEY UPDATE due_at = NOW(6)"
)
_REOPEN_SALE = text("UPDATE orders SET stock = 'committing' WHERE id = :id AND status = 'paid' AND stock = 'committed'")
_REOPEN_RELEASE = text(
    "UPDATE orders SET stock = 'releasing' WHERE id = :id AND status = 'cancelled' AND stock = 'free'"
)
_REOPEN_RETURN = text(
    "UPDATE orders SET stock = 'returning' WHERE id = :id AND status = 'cancelled' AND stock = 'returned'"
)
_MAKE_PAYABLE = text(
    "UPDATE orders SET payment_deadline = TIMESTAMPADD(SECOND, 60, SYSDATE(6))"
    " WHERE id = :id AND status = 'pending' AND payment = 'none' AND payment_deadline < SYSDATE(6)"
)
_NOTE_HOLD = text(
    "UPDATE reservations SET reservation_id = :reservation_id, expires_at = :expires_at, created_at = :created_at"
    " WHERE order_id = :id"
)
_NOTE_MENDED = (
    text("UPDATE orders SET version = version + 1, updated_at = SYSDATE(6) WHERE id = :id AND version = :version"),
    text(
        "INSERT INTO history (order_id, version, event, status_before, status_after, note, actor, correlation_id,"
        " created_at) SELECT id, version, 'mended', status, status, :note, 'audit', correlation_id, updated_at"
        " FROM orders WHERE id = :id"
    ),
)
_RELAY_BATCH = 100
_LEASE_SECONDS = 30
_LOOK_AGAIN_SECONDS = 0.1


class OrdersRepair:
    """Mends what the audit found."""

    def __init__(
        self,
        database: Database,
        store: Store,
        saga: Saga,
        relay: Relay,
        gateway: WarehouseGateway,
        hold_seconds: float = 1020,
    ) -> None:
        self._database = database
        self._store = store
        self._saga = saga
        self._relay = relay
        self._intents = PendingSteps(database)
        self._gateway = gateway
        self._hold_seconds = hold_seconds

    async def run(self, findings: Sequence[Finding]) -> None:
        """Mend each of `findings`, as its `mending` says, and finish what follows from it.

        What a running service has taken over meanwhile is waited for, as long as its lease on it may last. An order
        whose mending fails is left as it is, and the next audit finds it again. Raises: DatabaseFault.
        """
        for finding in findings:
            try:
                await self._mend(finding)
            except (GatewayFault, StepFault) as fault:
                log.warning("not_mended", order_id=finding.row.id, error=str(fault))
        ids = [finding.row.id for finding in findings]
        give_up_at = time.monotonic() + _LEASE_SECONDS
        while True:
            claimed = await self._intents.claim(_RELAY_BATCH, _LEASE_SECONDS)
            await asyncio.gather(*(self._relay.do(intent) for intent in claimed))
            if not claimed:
                if time.monotonic() > give_up_at or not await self._intents.are_open(ids):
                    return
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _mend(self, finding: Finding) -> None:
        order = await self._store.read(finding.row.id)
        if order.version != finding.row.version:
            return
        mend: dict[Mending, Callable[[Order, Finding], Awaitable[None]]] = {
            Mending.WRITE_STEPS_DOWN: self._write_steps_down,
            Mending.CANCEL: self._cancel,
            Mending.TAKE_AGAIN: self._take_again,
            Mending.SELL_AGAIN: self._sell_again,
            Mending.SELL: self._sell,
            Mending.REPEAT_PAYMENT: self._repeat_payment,
            Mending.RELEASE: self._release,
            Mending.GIVE_BACK: self._give_back,
        }
        if finding.mending is not Mending.NOTHING:
            await mend[finding.mending](order, finding)

    async def _write_steps_down(self, order: Order, _finding: Finding) -> None:
        for step in Step:
            if is_open(order.state, step):
                await self._write(_REOPEN_STEP, order_id=order.id, step=step)

    async def _repeat_payment(self, order: Order, _finding: Finding) -> None:
        """Ask for the payment again, under the key that it was taken with: nobody pays twice."""
        await self._write(_MAKE_PAYABLE, id=order.id)
        await self._saga.pay(order.id, "audit")

    async def _cancel(self, order: Order, finding: Finding) -> None:
        wish = Change(Event.CANCEL, reason=Reason.ADMIN, note=f"audit: it {finding.text}")
        await self._store.apply(order.id, wish, order)

    async def _take_again(self, order: Order, finding: Finding) -> None:
        """Hold an order's stock again, under the request id of its RESERVE; if it is gone, cancel the order."""
        hold = await self._reserve(order)
        if isinstance(hold, Refusal):
            await self._cancel(order, finding)
        else:
            await self._note_hold(order, hold, "audit: the warehouse did not know its hold, which was taken again")

    async def _sell_again(self, order: Order, _finding: Finding) -> None:
        """Hold and sell an order's stock again, under its own request ids; if it is gone, refund what is not shipped.

        Of an order that was shipped the warehouse must have the stock once more, which only a count can give it.
        """
        hold = await self._reserve(order)
        if isinstance(hold, Hold):
            call = await self._call(order, Step.COMMIT)
            if isinstance(await self._gateway.commit(hold.reservation_id, call), Done):
                await self._note_hold(order, hold, "audit: the warehouse did not know its sale, which was made again")
                return
        await self._refund(order)

    async def _sell(self, order: Order, finding: Finding) -> None:
        """Sell what a paid order did not get."""
        for hold in finding.owned.reserve.holds if finding.owned else ():
            if hold.state is not HoldState.CANCELLED:
                answer = await self._gateway.commit(hold.reservation_id, _own_call(order))
                if isinstance(answer, Done):
                    return
        await self._refund(order)

    async def _refund(self, order: Order) -> None:
        if order.state.status is Status.PAID:
            await self._write(_REOPEN_SALE, id=order.id)
            await self._store.apply(order.id, Change(Event.COMMIT_REFUSED, note="audit: it was paid, but not sold"))

    async def _release(self, order: Order, finding: Finding) -> None:
        """Give back what an order that ended without a sale still holds."""
        for hold in finding.owned.all_in(HoldState.RESERVED) if finding.owned else ():
            await self._gateway.release(hold.reservation_id, "audit", _own_call(order))

    async def _give_back(self, order: Order, _finding: Finding) -> None:
        """Put back what an order that ended had bought; each unit once, since its request ids are the order's."""
        if await self._write(_REOPEN_RETURN, id=order.id):
            await self._write(_REOPEN_STEP, order_id=order.id, step=Step.GIVE_BACK)
        elif await self._write(_REOPEN_RELEASE, id=order.id):
            await self._store.apply(order.id, Change(Event.RELEASE_FOUND_COMMITTED, note="audit: it was sold"))

    async def _reserve(self, order: Order) -> Hold | Refusal:
        lines = [
            StockLine(item.product_id, item.warehouse_id, item.quantity)
            for item in order.items
            if item.warehouse_id is not None
        ]
        name = (await self._store.name(order)).in_warehouse
        return await self._gateway.reserve(name, lines, self._hold_seconds, await self._call(order, Step.RESERVE))

    async def _note_hold(self, order: Order, hold: Hold, note: str) -> None:
        """Write the new hold down, unless the order has changed meanwhile: then its next audit looks again."""
        values = {"id": order.id, "version": order.version, "note": note, "reservation_id": hold.reservation_id}
        instants = {
            "expires_at": hold.expires_at.replace(tzinfo=None),
            "created_at": hold.created_at.replace(tzinfo=None),
        }
        moved, noted = _NOTE_MENDED

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(moved, values)).rowcount:
                await connection.execute(noted, values)
                await connection.execute(_NOTE_HOLD, {**values, **instants})

        await self._database.run_in_transaction(work)

    async def _call(self, order: Order, step: Step) -> Call:
        name = await self._store.name(order)
        return Call(name.request_id(step), order.correlation_id, actor="audit")

    async def _write(self, statement: TextClause, **values: object) -> bool:
        """Whether it changed a row."""

        async def work(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(statement, values)).rowcount)

        return await self._database.run_in_transaction(work)


def _own_call(order: Order) -> Call:
    """What goes along with a call that is none of the order's steps; made again, it has no second effect."""
    return Call(f"audit-{uuid.uuid4().hex}", order.correlation_id, actor="audit")
