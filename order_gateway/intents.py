"""What remains to be done outside: each step is written down with the change that asks for it, struck out when done."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway import statements, tables
from order_gateway.orders import Step
from service_kit.database import Database

ERROR_LENGTH_MAX = 500
_POSTPONE = text(
    "UPDATE intents SET due_at = TIMESTAMPADD(MICROSECOND, :delay, SYSDATE(6)), last_error = :error "
    "WHERE order_id = :order_id AND step = :step"
)
_FORGET = text("DELETE FROM intents WHERE order_id = :order_id AND step = :step")


@dataclass(frozen=True, slots=True)
class Intent:
    """A step that remains to be done."""

    order_id: int
    step: Step
    attempts: int
    traceparent: str = ""


class Intents:
    """The steps, for those who do them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease_seconds: float) -> list[Intent]:
        """Take up to `limit` steps that are due, for `lease_seconds`; other processes get other ones."""

        async def work(connection: AsyncConnection) -> list[Intent]:
            columns = tables.intents.c
            due = (
                select(columns.order_id, columns.step, columns.attempts, columns.traceparent)
                .where(columns.due_at <= func.now(6))
                .order_by(columns.due_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            claimed = [
                Intent(int(row.order_id), Step(row.step), row.attempts + 1, row.traceparent or "")
                for row in await connection.execute(due)
            ]
            if claimed:
                steps = msgspec.json.encode([(intent.order_id, intent.step) for intent in claimed]).decode()
                values = {"steps": steps, "lease_microseconds": round(lease_seconds * 1e6)}
                await connection.exec_driver_sql(statements.TAKE_STEPS, values)
            return claimed

        return await self._database.run_in_transaction(work)

    async def are_open(self, order_ids: Sequence[int]) -> bool:
        """Whether a step of any of these orders remains to be done, whoever has it."""
        query = select(tables.intents.c.order_id).where(tables.intents.c.order_id.in_(order_ids)).limit(1)

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(query)).first() is not None

        return await self._database.run_in_transaction(work)

    async def postpone(self, intent: Intent, delay_seconds: float, error: str) -> None:
        """A step did not succeed: it is due again after a while, unless someone else concluded it meanwhile."""

        async def work(connection: AsyncConnection) -> None:
            values = {"delay": round(delay_seconds * 1e6), "error": error[:ERROR_LENGTH_MAX]}
            await connection.execute(_POSTPONE, {**values, "order_id": intent.order_id, "step": intent.step})

        await self._database.run_in_transaction(work)

    async def forget(self, intent: Intent) -> None:
        """Strike out a step that its order no longer waits for."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_FORGET, {"order_id": intent.order_id, "step": intent.step})

        await self._database.run_in_transaction(work)
