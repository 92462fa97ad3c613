"""Checks invariant 7: every order agrees with the warehouse, or somebody is still going to make it agree.

paid <=> committed, pending <=> held, cancelled or rejected <=> nothing held; what is still to be done is written down.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway import Call, Done, WarehouseGateway
from order_gateway.gateway.holdings import Holding, Holdings, HoldingState
from order_gateway.intents import Intents
from order_gateway.orders import Event, Order, Reason, Status, Step, Stock, is_open, is_settled
from order_gateway.relay import Relay
from order_gateway.store import Change, Store
from service_kit.database import Database

PAGE_SIZE = 200
LOOKS_MAX = 3
"""An order that changed while it was compared is compared again, so that the audit is right under load, too."""
_HELD, _SOLD = HoldingState.RESERVED, HoldingState.COMMITTED
_IDS = text("SELECT id FROM orders WHERE id > :after ORDER BY id LIMIT :limit")
_OPEN = text("SELECT order_id, step FROM intents WHERE order_id BETWEEN :first AND :last")
_REOPEN_STEP = text(
    "INSERT INTO intents (order_id, step, due_at, created_at) VALUES (:order_id, :step, NOW(6), NOW(6))"
    " ON DUPLICATE KEY UPDATE due_at = NOW(6)"
)
_REOPEN_SALE = text("UPDATE orders SET stock = 'committing' WHERE id = :id AND status = 'paid' AND stock = 'committed'")
_REOPEN_RELEASE = text(
    "UPDATE orders SET stock = 'releasing' WHERE id = :id AND status = 'cancelled' AND stock = 'free'"
)
_RELAY_BATCH = 100
_LEASE_SECONDS = 30
_LOOK_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """An order that does not agree with the warehouse."""

    order: Order
    problem: str
    holdings: tuple[Holding, ...] = ()


@dataclass(frozen=True, slots=True)
class OrdersReport:
    """The outcome.

    Attributes:
        unfinished: orders for which a step is still to be done, as it is written down; nothing is wrong with them.
    """

    checked: int
    unfinished: int
    findings: tuple[Finding, ...]


class OrdersAudit:
    """Compares all orders with the warehouse."""

    def __init__(self, database: Database, store: Store, holdings: Holdings) -> None:
        self._database = database
        self._store = store
        self._holdings = holdings

    async def run(self) -> OrdersReport:
        """Compare. Raises: DatabaseFault, GatewayFault."""
        checked = unfinished = 0
        findings: list[Finding] = []
        async for ids in self._pages():
            opened = await self._open_steps(ids)
            found = await asyncio.gather(*(self._compare(order_id, opened[order_id]) for order_id in ids))
            checked += len(ids)
            unfinished += sum(bool(opened[order_id]) for order_id in ids)
            findings += [finding for finding in found if finding is not None]
        return OrdersReport(checked, unfinished, tuple(findings))

    async def _pages(self) -> AsyncIterator[list[int]]:
        after = 0
        while True:

            async def work(connection: AsyncConnection, after: int = after) -> list[int]:
                return list((await connection.execute(_IDS, {"after": after, "limit": PAGE_SIZE})).scalars())

            ids = await self._database.run_in_transaction(work)
            if not ids:
                return
            yield ids
            after = ids[-1]

    async def _open_steps(self, ids: Sequence[int]) -> defaultdict[int, set[Step]]:
        async def work(connection: AsyncConnection) -> defaultdict[int, set[Step]]:
            opened: defaultdict[int, set[Step]] = defaultdict(set)
            for order_id, step in await connection.execute(_OPEN, {"first": ids[0], "last": ids[-1]}):
                opened[order_id].add(Step(step))
            return opened

        return await self._database.run_in_transaction(work)

    async def _compare(self, order_id: int, opened: set[Step]) -> Finding | None:
        finding: Finding | None = None
        for _ in range(LOOKS_MAX):
            before = await self._store.read(order_id)
            holdings = await self._holdings.of_order(order_id)
            problem = disagreement(before, opened, holdings)
            if problem is None:
                return None
            finding = Finding(before, problem, tuple(holdings))
            opened = (await self._open_steps([order_id]))[order_id]
        return finding


def disagreement(order: Order, opened: set[Step], holdings: Sequence[Holding]) -> str | None:
    """What is wrong with an order, given the steps written down for it and what the warehouse has; None: nothing."""
    state = order.state
    if not is_settled(state):
        forgotten = [step for step in Step if is_open(state, step) and step not in opened]
        return f"waits for {', '.join(forgotten)}, which nobody is going to do" if forgotten else None
    held = [holding for holding in holdings if holding.state is _HELD]
    sold = [holding for holding in holdings if holding.state is _SOLD]
    if state.stock is Stock.HELD:
        if sold:
            return "waits for its payment, but is sold"
        expected = {reservation.reservation_id for reservation in order.reservations if reservation.is_active}
        return None if expected <= {holding.reservation_id for holding in held} else "is not held"
    if held:
        return f"is {state.status}, but {len(held)} reservations are still held"
    if state.stock is Stock.COMMITTED and not sold:
        return f"is {state.status}, but not sold"
    if state.stock is Stock.FREE and sold:
        return f"is {state.status}, but sold"
    return None


class OrdersRepair:
    """Makes orders agree with the warehouse again."""

    def __init__(
        self, database: Database, store: Store, relay: Relay, gateway: WarehouseGateway, holdings: Holdings
    ) -> None:
        self._database = database
        self._store = store
        self._relay = relay
        self._intents = Intents(database)
        self._gateway = gateway
        self._holdings = holdings

    async def run(self, findings: Sequence[Finding]) -> None:
        """Finish each of `findings`, and what is due. Raises: DatabaseFault, GatewayFault.

        What a running service has taken over meanwhile is waited for, as long as its lease on it may last.
        """
        for finding in findings:
            await self._finish(finding)
        ids = [finding.order.id for finding in findings]
        give_up_at = time.monotonic() + _LEASE_SECONDS
        while True:
            claimed = await self._intents.claim(_RELAY_BATCH, _LEASE_SECONDS)
            await asyncio.gather(*(self._relay.do(intent) for intent in claimed))
            if not claimed:
                if time.monotonic() > give_up_at or not await self._intents.are_open(ids):
                    return
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _finish(self, finding: Finding) -> None:
        order = finding.order
        state = order.state
        if not is_settled(state):
            for step in Step:
                if is_open(state, step):
                    await self._write(_REOPEN_STEP, order_id=order.id, step=step)
        elif state.stock is Stock.HELD:
            wish = Change(Event.CANCEL, reason=Reason.ADMIN, note=f"audit: it {finding.problem}")
            await self._store.apply(order.id, wish)
        elif state.stock is Stock.COMMITTED:
            await self._sell(finding)
        else:
            await self._let_go(finding)

    async def _sell(self, finding: Finding) -> None:
        """Sell what a paid order did not get; where that can't be done any more the customer is refunded."""
        order = finding.order
        sold = any(holding.state is _SOLD for holding in finding.holdings)
        for holding in finding.holdings:
            call = await self._call(order, f"sell-{holding.reservation_id[-12:]}")
            if holding.state is _HELD and sold:
                await self._holdings.release(holding.reservation_id, call)
            elif not sold and holding.state is not HoldingState.CANCELLED:
                sold = isinstance(await self._gateway.commit(holding.reservation_id, call), Done)
        if not sold and order.state.status is Status.PAID:
            await self._write(_REOPEN_SALE, id=order.id)
            await self._store.apply(order.id, Change(Event.COMMIT_REFUSED, note="audit: it was paid, but not sold"))

    async def _let_go(self, finding: Finding) -> None:
        """Give back what an order that ended without a sale still has."""
        order = finding.order
        for holding in finding.holdings:
            call = await self._call(order, f"free-{holding.reservation_id[-12:]}")
            if holding.state is _HELD:
                await self._holdings.release(holding.reservation_id, call)
            elif holding.state is _SOLD and order.state.status is Status.CANCELLED:
                await self._write(_REOPEN_RELEASE, id=order.id)
                await self._store.apply(order.id, Change(Event.RELEASE_FOUND_COMMITTED, note="audit: it was sold"))

    async def _call(self, order: Order, what: str) -> Call:
        return Call(f"{await self._store.token()}-{order.id}-{what}", order.correlation_id, actor="audit")

    async def _write(self, statement: TextClause, **values: object) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement, values)

        await self._database.run_in_transaction(work)
