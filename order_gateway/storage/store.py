"""The orders: every change of one is an event, written in one transaction with the outside steps that follow from it.

What comes at the same time shares a transaction: new orders, changes, and reads are three batches under way at once.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.identity import OrderName, name_of, new_request_key
from order_gateway.lifecycle import (
    NewOrder,
    Order,
    Payment,
    Status,
)
from order_gateway.storage import tables
from order_gateway.storage.applying import Applied, Change
from order_gateway.storage.changing import Changing, Work
from order_gateway.storage.creating import Creating, Creation, KeyClaim
from service_kit.background import Watched
from service_kit.batcher import Batcher, BatcherSettings
from service_kit.database.database import Database
from service_kit.tracing import current_traceparent


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
        self._creating = Creating(database, settings.payment_window_seconds)
        self._changing = Changing(database, settings.hold_grace_seconds)
        self._creations: Batcher[Creation, Order] = Batcher(self._creating.process, batches, "placing batcher")
        self._changes: Batcher[Work, Applied] = Batcher(self._changing.process, batches, "changing batcher")
        self._reads: Batcher[int, Order] = Batcher(self._changing.read, batches, "reading batcher")
        self._is_started = False

    @property
    def batchers(self) -> tuple[Watched, ...]:
        """What goes on in the background."""
        return (self._creations, self._changes, self._reads)

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
        return await self._creations.submit(
            Creation(new, token, request_key, lease_seconds, key, current_traceparent())
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
        return await self._changes.submit(Work(order_id, change, current_traceparent(), known))

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
        """Finish what is under way, and close the connections."""
        if self._is_started:
            for batcher in (self._creations, self._changes, self._reads):
                await batcher.close()
            await self._creating.close()
            await self._changing.close()

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            for batcher in (self._creations, self._changes, self._reads):
                batcher.start()


async def _read_token(connection: AsyncConnection) -> str:
    fresh = insert(tables.installation).prefix_with("IGNORE").values(id=1, token=secrets.token_hex(4))
    await connection.execute(fresh)
    return str((await connection.execute(select(tables.installation.c.token))).scalar_one())
