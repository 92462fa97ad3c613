"""What remains to be done outside: each step is written here with the change that asks for it, and marked when done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway import tables
from order_gateway.orders import Step
from service_kit.database import Database

ERROR_LENGTH_MAX = 500
# SYSDATE is when it is evaluated, NOW when its statement began, which may have waited for a lock since.
_NOW = text("SELECT SYSDATE(6)")


@dataclass(frozen=True, slots=True)
class Intent:
    """A step that remains to be done."""

    order_id: int
    step: Step
    attempts: int


class Intents:
    """The steps, for those who do them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease_seconds: float) -> list[Intent]:
        """Take up to `limit` steps that are due, for `lease_seconds`; other processes get other ones."""

        async def work(connection: AsyncConnection) -> list[Intent]:
            columns = tables.intents.c
            due = (
                select(columns.order_id, columns.step, columns.attempts)
                .where(columns.due_at <= func.now(6))
                .order_by(columns.due_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            claimed = [
                Intent(int(row.order_id), Step(row.step), row.attempts + 1) for row in await connection.execute(due)
            ]
            if claimed:
                await connection.execute(
                    update(tables.intents)
                    .where(columns.order_id == bindparam("of_order"), columns.step == bindparam("of_step"))
                    .values(due_at=bindparam("until"), attempts=columns.attempts + 1),
                    _claim_values(claimed, await now_of(connection) + timedelta(seconds=lease_seconds)),
                )
            return claimed

        return await self._database.run_in_transaction(work)

    async def postpone(self, intent: Intent, delay_seconds: float, error: str) -> None:
        """A step did not succeed: it is due again after a while, unless someone else concluded it meanwhile."""

        async def work(connection: AsyncConnection) -> None:
            columns = tables.intents.c
            due_at = await now_of(connection) + timedelta(seconds=delay_seconds)
            await connection.execute(
                update(tables.intents)
                .where(columns.order_id == intent.order_id, columns.step == intent.step, columns.due_at.is_not(None))
                .values(due_at=due_at, last_error=error[:ERROR_LENGTH_MAX])
            )

        await self._database.run_in_transaction(work)

    async def forget(self, intent: Intent) -> None:
        """Mark a step as done that its order no longer waits for."""

        async def work(connection: AsyncConnection) -> None:
            await end(connection, intent.order_id, (intent.step,), await now_of(connection))

        await self._database.run_in_transaction(work)


async def now_of(connection: AsyncConnection) -> datetime:
    """The database's clock, in UTC."""
    now = (await connection.execute(_NOW)).scalar_one()
    assert isinstance(now, datetime)
    return now


async def begin(
    connection: AsyncConnection, order_id: int, steps: Sequence[Step], now: datetime, lease_seconds: float
) -> None:
    """Write down steps, left to the caller for `lease_seconds`; part of a transaction."""
    due_at = now + timedelta(seconds=lease_seconds)
    for step in steps:
        await connection.execute(
            insert(tables.intents).values(order_id=order_id, step=step, due_at=due_at, attempts=0, created_at=now)
        )


async def end(connection: AsyncConnection, order_id: int, steps: Sequence[Step], now: datetime) -> None:
    """Mark steps as done; part of a transaction."""
    columns = tables.intents.c
    for step in steps:
        await connection.execute(
            update(tables.intents)
            .where(columns.order_id == order_id, columns.step == step, columns.due_at.is_not(None))
            .values(due_at=None, done_at=now)
        )


def _claim_values(claimed: Sequence[Intent], until: datetime) -> list[dict[str, Any]]:
    return [{"of_order": intent.order_id, "of_step": intent.step, "until": until} for intent in claimed]
