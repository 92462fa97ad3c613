"""Reads orders in numbers: pages of a list, what happened to an order, which order a hold belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.lifecycle import Order, Status
from order_gateway.storage import statements, tables
from order_gateway.storage.rows import encode, line_of, orders_of
from service_kit.database.database import Database
from service_kit.fair_semaphore import FairSemaphore
from service_kit.times import from_database, to_database


@dataclass(frozen=True, slots=True)
class Filter:
    """Which orders; None: any. `since` is included, `before` is not."""

    user_id: str | None = None
    status: Status | None = None
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class OrderEvent:
    """Something that happened to an order; its `id` is the order's version after it."""

    id: int
    order_id: int
    event: str
    status_before: Status | None
    status: Status
    note: str | None
    actor: str
    at: datetime


class Listing:
    """Reads; all methods raise DatabaseFault.

    Args:
        counted_max: a list says of itself that it has no more than this, so that counting it takes a bounded time.
        lists_at_once_max: lists may be slow: no more of them are read at once, so that connections are left for others.
    """

    def __init__(self, database: Database, counted_max: int, lists_at_once_max: int = 3) -> None:
        self._lists = FairSemaphore(lists_at_once_max)
        self._database = database
        self._counted_max = counted_max

    async def page(self, wanted: Filter, page: int, limit: int, owner: str = "") -> tuple[list[Order], int]:
        """The orders on a page, newest first, and how many there are in all, up to `counted_max`.

        All as of one moment: each order is as its filter found it.

        Args:
            owner: for whom; those for whom many lists are asked wait for each other, not others for them.
        """
        conditions = _conditions(wanted)
        orders = tables.orders
        counted = select(orders.c.id).where(*conditions).limit(self._counted_max).subquery()
        count = select(func.count()).select_from(counted)
        ids = (
            select(orders.c.id).where(*conditions).order_by(orders.c.id.desc()).limit(limit).offset((page - 1) * limit)
        )

        async def work(connection: AsyncConnection) -> tuple[list[Order], int]:
            total = int((await connection.execute(count)).scalar_one())
            found = [int(row.id) for row in await connection.execute(ids)] if total else []
            return await _load(connection, found), total

        async with self._lists.slot(owner):
            return await self._database.read_in_snapshot(work)

    async def history(self, order_id: int, after: int, limit: int, owner: str = "") -> list[OrderEvent]:
        """What happened to an order after the event with the id `after`, oldest first; `owner`: as for `page`."""
        columns = tables.history.c
        query = (
            select(tables.history)
            .where(columns.order_id == order_id, columns.version > after)
            .order_by(columns.version)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[OrderEvent]:
            return [_order_event(row) for row in await connection.execute(query)]

        async with self._lists.slot(owner):
            return await self._database.run_in_transaction(work)

    async def latest(self, order_ids: Sequence[int]) -> dict[int, int]:
        """The id of the latest event of each order."""
        columns = tables.orders.c
        query = select(columns.id, columns.version).where(columns.id.in_(order_ids))

        async def work(connection: AsyncConnection) -> dict[int, int]:
            return {int(row.id): int(row.version) for row in await connection.execute(query)}

        return await self._database.run_in_transaction(work)

    async def reservation_id(self, id_: int) -> str | None:
        """The warehouse's id of the hold that an order shows under the number `id_`."""
        columns = tables.reservations.c
        order_id, position = line_of(id_)
        query = select(columns.reservation_id).where(columns.order_id == order_id, columns.position == position)

        async def work(connection: AsyncConnection) -> str | None:
            return (await connection.execute(query)).scalar_one_or_none()

        return await self._database.run_in_transaction(work)


async def _load(connection: AsyncConnection, order_ids: Sequence[int]) -> list[Order]:
    """The orders with these numbers, in this order."""
    if not order_ids:
        return []
    values = {"ids": encode([[order_id] for order_id in sorted(order_ids)]).decode()}
    texts = (statements.READ_ORDERS, statements.READ_ITEMS, statements.READ_RESERVATIONS, statements.CLOCK)
    *rows, [(now,)] = [
        [(row[0],) for row in await connection.exec_driver_sql(text, values if "%" in text else None)] for text in texts
    ]
    found = orders_of(rows, now)
    return [found[order_id] for order_id in order_ids]


def _conditions(wanted: Filter) -> list[sqlalchemy.ColumnElement[bool]]:
    columns = tables.orders.c
    conditions: list[sqlalchemy.ColumnElement[bool]] = []
    if wanted.user_id is not None:
        conditions.append(columns.user_id == wanted.user_id)
    if wanted.status is not None:
        conditions.append(columns.status == wanted.status)
    if wanted.since is not None:
        conditions.append(columns.created_at >= to_database(wanted.since))
    if wanted.before is not None:
        conditions.append(columns.created_at < to_database(wanted.before))
    return conditions


def _order_event(row: sqlalchemy.Row[Any]) -> OrderEvent:
    return OrderEvent(
        id=int(row.version),
        order_id=int(row.order_id),
        event=row.event,
        status_before=None if row.status_before is None else Status(row.status_before),
        status=Status(row.status_after),
        note=row.note,
        actor=row.actor,
        at=from_database(row.created_at),
    )
