"""What remains to be done outside: each step is written down with the change that asks for it, struck out when done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.lifecycle import Instant, Step
from order_gateway.storage import statements, tables
from service_kit.database.database import Database
from service_kit.times import duration_microseconds, from_database

ERROR_LENGTH_MAX = 500
# Who did it has a lease; if it is due all the same, there is news of it since, for the next try.
_POSTPONE = text(
    "UPDATE intents SET due_at = IF(due_at <= SYSDATE(6), due_at, TIMESTAMPADD(MICROSECOND, :delay, SYSDATE(6))), "
    "last_error = :error, "
    "parked_at = IF(:is_parked, COALESCE(parked_at, SYSDATE(6)), NULL) WHERE order_id = :order_id AND step = :step"
)
_UNPARK = text(
    "UPDATE intents SET due_at = SYSDATE(6), attempts = 0, parked_at = NULL "
    "WHERE order_id = :order_id AND step = :step AND parked_at IS NOT NULL"
)
_FORGET = text("DELETE FROM intents WHERE order_id = :order_id AND step = :step")


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that remains to be done.

    Attributes:
        begun_at: when it was written down.
        claimed_at: when it was taken to be done. Both by the database's clock.
    """

    order_id: int
    step: Step
    attempts: int
    traceparent: str
    begun_at: datetime
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class ParkedStep:
    """A step that keeps failing for a reason that waiting does not mend; it is tried only now and then."""

    order_id: int
    step: Step
    attempts: int
    last_error: str | None
    begun_at: Instant
    parked_at: Instant
    next_try_at: Instant


class PendingSteps:
    """The steps, for those who do them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, lease_seconds: float) -> list[PendingStep]:
        """Take up to `limit` steps that are due, for `lease_seconds`; other processes get other ones."""

        async def work(connection: AsyncConnection) -> list[PendingStep]:
            columns = tables.intents.c
            due = (
                select(
                    columns.order_id,
                    columns.step,
                    columns.attempts,
                    columns.traceparent,
                    columns.created_at,
                    func.now(6).label("now"),
                )
                .where(columns.due_at <= func.now(6))
                .order_by(columns.due_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            claimed = [
                PendingStep(
                    int(row.order_id),
                    Step(row.step),
                    row.attempts + 1,
                    row.traceparent or "",
                    from_database(row.created_at),
                    from_database(row.now),
                )
                for row in await connection.execute(due)
            ]
            if claimed:
                steps = msgspec.json.encode([(intent.order_id, intent.step) for intent in claimed]).decode()
                values = {"steps": steps, "lease_microseconds": duration_microseconds(lease_seconds)}
                await connection.exec_driver_sql(statements.TAKE_STEPS, values)
            return claimed

        return await self._database.run_in_transaction(work)

    async def are_open(self, order_ids: Sequence[int]) -> bool:
        """Whether a step of any of these orders remains to be done, whoever has it."""
        query = select(tables.intents.c.order_id).where(tables.intents.c.order_id.in_(order_ids)).limit(1)

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(query)).first() is not None

        return await self._database.run_in_transaction(work)

    async def postpone(self, intent: PendingStep, delay_seconds: float, error: str, *, is_parked: bool = False) -> None:
        """A step did not succeed: it is due again after a while, unless someone else concluded it meanwhile."""

        async def work(connection: AsyncConnection) -> None:
            values = {
                "delay": duration_microseconds(delay_seconds),
                "error": error[:ERROR_LENGTH_MAX],
                "is_parked": is_parked,
            }
            await connection.execute(_POSTPONE, {**values, "order_id": intent.order_id, "step": intent.step})

        await self._database.run_in_transaction(work)

    async def parked(self, skip: int, limit: int) -> tuple[list[ParkedStep], int]:
        """Parked steps, those parked first first, and how many there are in all."""
        columns = tables.intents.c
        is_parked = columns.parked_at.is_not(None)
        count = select(func.count()).select_from(tables.intents).where(is_parked)
        query = select(tables.intents).where(is_parked).order_by(columns.parked_at, columns.order_id, columns.step)

        async def work(connection: AsyncConnection) -> tuple[list[ParkedStep], int]:
            rows = await connection.execute(query.offset(skip).limit(limit))
            found = [
                ParkedStep(
                    int(row.order_id),
                    Step(row.step),
                    row.attempts,
                    row.last_error,
                    from_database(row.created_at),
                    from_database(row.parked_at),
                    from_database(row.due_at),
                )
                for row in rows
            ]
            return found, int((await connection.execute(count)).scalar_one())

        return await self._database.run_in_transaction(work)

    async def unpark(self, order_id: int, step: Step) -> bool:
        """Let a parked step be tried at once, and then as often as a new one; whether there is such a step."""

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(_UNPARK, {"order_id": order_id, "step": step})).rowcount > 0

        return await self._database.run_in_transaction(work)

    async def forget(self, intent: PendingStep) -> None:
        """Strike out a step that its order no longer waits for."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_FORGET, {"order_id": intent.order_id, "step": intent.step})

        await self._database.run_in_transaction(work)
