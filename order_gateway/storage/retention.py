"""Deletes what is only needed for a while: the answers by Idempotency-Key. Runs in every process of the service."""

import asyncio
import random

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.settings import RetentionSettings
from order_gateway.storage import statements
from order_gateway.storage.rows import encode
from service_kit.database.database import Database, Fault

log = structlog.get_logger(__name__)
# A key whose request is being worked on stays, however old it is.
_OLD_KEYS = text(
    "SELECT owner, idempotency_key FROM idempotency_keys WHERE created_at < TIMESTAMPADD(MICROSECOND, -:age, NOW(6))"
    " AND claimed_until < NOW(6) ORDER BY created_at LIMIT :batch FOR UPDATE SKIP LOCKED"
)


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
                if deleted := await self.sweep():
                    log.info("idempotency_keys_deleted", count=deleted)
            except Fault as fault:
                log.warning("retention_waits", error=str(fault))

    async def sweep(self) -> int:
        """Delete all that is over age now; how many there were. Raises: DatabaseFault."""
        age = round(self._settings.idempotency_keys_seconds * 1e6)
        values = {"age": age, "batch": self._settings.batch}

        async def work(connection: AsyncConnection) -> int:
            old = [tuple(row) for row in await connection.execute(_OLD_KEYS, values)]
            if old:
                keys = encode(sorted(old)).decode()
                await connection.exec_driver_sql(statements.DELETE_KEYS, {"keys": keys})
            return len(old)

        total = 0
        while count := await self._database.run_in_transaction(work):
            total += count
            await asyncio.sleep(self._settings.pause_seconds)
        return total
