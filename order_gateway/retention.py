"""Deletes what is only needed for a while: answers by Idempotency-Key, and steps that are done.

Runs in every process of the service. Nothing else depends on these rows: a step is known to be open by its row,
and to be done by the state of its order.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.settings import RetentionSettings
from service_kit.database import Database, Fault

log = structlog.get_logger(__name__)
_BEFORE = "TIMESTAMPADD(MICROSECOND, -:age, NOW(6))"
_BINARY = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
# A key whose request is being worked on stays, however old it is.
_OLD_KEYS = text(
    f"SELECT owner, idempotency_key FROM idempotency_keys WHERE created_at < {_BEFORE} AND claimed_until < NOW(6)"
    " ORDER BY created_at LIMIT :batch FOR UPDATE SKIP LOCKED"
)
_DELETE_KEYS = text(
    f"DELETE t FROM JSON_TABLE(:rows, '$[*]' COLUMNS (owner VARCHAR(64) {_BINARY} PATH '$[0]',"
    f" idempotency_key VARCHAR(128) {_BINARY} PATH '$[1]')) AS j STRAIGHT_JOIN idempotency_keys AS t"
    " FORCE INDEX (PRIMARY) ON t.owner = j.owner AND t.idempotency_key = j.idempotency_key"
)
# By primary key, which is also the order of age: an index of what is done would cost every order a write more.
_STEPS = text(
    f"SELECT order_id, step, created_at < {_BEFORE} AS is_old,"
    f" COALESCE(due_at IS NULL AND done_at < {_BEFORE}, FALSE) AS is_over"
    " FROM intents WHERE order_id >= :first ORDER BY order_id, step LIMIT :batch"
)
_DELETE_STEPS = text(
    "DELETE t FROM JSON_TABLE(:rows, '$[*]' COLUMNS (order_id BIGINT PATH '$[0]',"
    f" step VARCHAR(16) {_ASCII} PATH '$[1]')) AS j STRAIGHT_JOIN intents AS t"
    " FORCE INDEX (PRIMARY) ON t.order_id = j.order_id AND t.step = j.step WHERE t.due_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many rows of each kind went."""

    keys: int = 0
    steps: int = 0


class Retention:
    """A background task: small batches, each a transaction of its own."""

    def __init__(self, database: Database, settings: RetentionSettings) -> None:
        self._database = database
        self._settings = settings

    async def run(self) -> None:
        """Sweep from time to time; runs until cancelled."""
        while True:
            await asyncio.sleep(self._settings.every_seconds * random.uniform(0.75, 1.25))  # noqa: S311
            try:
                deleted = await self.sweep()
            except Fault as fault:
                log.warning("retention_waits", error=str(fault))
            else:
                if deleted != Deleted():
                    log.info("over_age_deleted", keys=deleted.keys, steps=deleted.steps)

    async def sweep(self) -> Deleted:
        """Delete all that is over age now. Raises: DatabaseFault."""
        return Deleted(await self._sweep_keys(), await self._sweep_steps())

    async def _sweep_keys(self) -> int:
        values = {"age": _microseconds(self._settings.idempotency_keys_seconds), "batch": self._settings.batch}

        async def work(connection: AsyncConnection) -> int:
            old = [tuple(row) for row in await connection.execute(_OLD_KEYS, values)]
            await connection.execute(_DELETE_KEYS, {"rows": _document(old)})
            return len(old)

        total = 0
        while count := await self._database.run_in_transaction(work):
            total += count
            await asyncio.sleep(self._settings.pause_seconds)
        return total

    async def _sweep_steps(self) -> int:
        total, first = 0, 0
        while True:
            rows = await self._steps(first)
            over = [(row[0], row[1]) for row in rows if row[3]]
            if over:
                total += await self._delete_steps(over)
            if len(rows) < self._settings.batch or not any(row[2] for row in rows):
                return total
            # The last order of this page may have more steps on the next one.
            first = rows[-1][0]
            await asyncio.sleep(self._settings.pause_seconds)

    async def _steps(self, first: int) -> list[tuple[int, str, bool, bool]]:
        values = {"age": _microseconds(self._settings.steps_seconds), "batch": self._settings.batch, "first": first}

        async def work(connection: AsyncConnection) -> list[tuple[int, str, bool, bool]]:
            rows = await connection.execute(_STEPS, values)
            return [(int(row.order_id), row.step, bool(row.is_old), bool(row.is_over)) for row in rows]

        return await self._database.run_in_transaction(work)

    async def _delete_steps(self, over: Sequence[tuple[int, str]]) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(_DELETE_STEPS, {"rows": _document(over)})).rowcount

        return await self._database.run_in_transaction(work)


def _document(rows: Sequence[tuple[object, ...]]) -> str:
    return msgspec.json.encode(sorted(rows)).decode()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
