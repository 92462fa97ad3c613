"""Refunds that somebody else has to make: asked for by rows that stay until they are confirmed."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.lifecycle import Instant
from order_gateway.storage import tables
from service_kit.database.database import Database
from service_kit.times import from_database


class RefundStatus(StrEnum):
    """Whether whoever took the money has said that it was given back."""

    REQUESTED = "requested"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund of an order's whole amount; an order has one at most, which has the order's number."""

    id: int
    order_id: int
    status: RefundStatus
    amount: Decimal
    currency: str
    payment_method: str
    payment_reference: str | None
    reason: str
    requested_at: Instant
    confirmed_at: Instant | None
    confirmed_by: str | None
    refund_reference: str | None


class RefundList:
    """Reads; all methods raise DatabaseFault."""

    def __init__(self, database: Database, counted_max: int) -> None:
        self._database = database
        self._counted_max = counted_max

    async def page(self, status: RefundStatus | None, page: int, limit: int) -> tuple[list[Refund], int]:
        """A page of the refunds, the oldest request first, and how many there are in all, up to `counted_max`."""
        columns = tables.refunds.c
        is_open = columns.confirmed_at.is_(None)
        conditions = [] if status is None else [is_open if status is RefundStatus.REQUESTED else ~is_open]
        counted = select(columns.order_id).where(*conditions).limit(self._counted_max).subquery()
        rows = (
            select(tables.refunds)
            .where(*conditions)
            .order_by(columns.requested_at, columns.order_id)
            .limit(limit)
            .offset((page - 1) * limit)
        )

        async def work(connection: AsyncConnection) -> tuple[list[Refund], int]:
            total = int((await connection.execute(select(func.count()).select_from(counted))).scalar_one())
            return [_refund(row) for row in await connection.execute(rows)] if total else [], total

        return await self._database.run_in_transaction(work)

    async def read(self, order_id: int) -> Refund | None:
        """The refund of an order, if one was asked for."""
        query = select(tables.refunds).where(tables.refunds.c.order_id == order_id)

        async def work(connection: AsyncConnection) -> Refund | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _refund(row)

        return await self._database.run_in_transaction(work)


def _refund(row: sqlalchemy.Row[Any]) -> Refund:
    return Refund(
        id=int(row.order_id),
        order_id=int(row.order_id),
        status=RefundStatus.REQUESTED if row.confirmed_at is None else RefundStatus.CONFIRMED,
        amount=row.amount,
        currency=row.currency,
        payment_method=row.payment_method,
        payment_reference=row.payment_reference,
        reason=row.reason,
        requested_at=from_database(row.requested_at),
        confirmed_at=None if row.confirmed_at is None else from_database(row.confirmed_at),
        confirmed_by=row.confirmed_by,
        refund_reference=row.refund_reference,
    )
