"""Reads the warehouse's catalogue into this service's database, so that orders can be priced without the warehouse.

One process of the service at a time does it, by a lease in the database, for all. What is read is what has changed
since the last time; from time to time all of it.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway.port import CataloguePage, GatewayFault
from order_gateway.pricing.price_catalogue import PriceCatalogue
from service_kit.database.database import Database, Fault
from service_kit.times import duration_microseconds, from_database, to_database

log = structlog.get_logger(__name__)
Pages = Callable[[datetime | None], AsyncIterator[CataloguePage]]
OVERLAP = timedelta(seconds=60)
"""A change carries the time when it was made, and can be seen only once it is committed."""
_BEGIN = text("INSERT IGNORE INTO catalogue_reading (id, reader, due_at) VALUES (1, '', SYSDATE(6))")
_LOCK = text(
    "SELECT changed_since, due_at <= SYSDATE(6) AS is_due, all_due_at IS NULL OR all_due_at <= SYSDATE(6) AS all_is_due"
    " FROM catalogue_reading WHERE id = 1 FOR UPDATE"
)
_TAKE = text(
    "UPDATE catalogue_reading SET reader = :reader, due_at = TIMESTAMPADD(MICROSECOND, :lease, SYSDATE(6)) WHERE id = 1"
)
_DONE = text(
    "UPDATE catalogue_reading SET changed_since = :changed_since,"
    " due_at = TIMESTAMPADD(MICROSECOND, :pause, SYSDATE(6)),"
    " all_due_at = IF(:was_all, TIMESTAMPADD(MICROSECOND, :all_pause, SYSDATE(6)), all_due_at)"
    " WHERE id = 1 AND reader = :reader"
)
_FAILED = text(
    "UPDATE catalogue_reading SET due_at = TIMESTAMPADD(MICROSECOND, :pause, SYSDATE(6))"
    " WHERE id = 1 AND reader = :reader"
)


@dataclass(frozen=True, slots=True)
class CatalogueSyncSettings:
    """How often, in seconds: changes, all, again after a failure; and how long one reading may take."""

    every_seconds: float
    all_every_seconds: float
    retry_seconds: float
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """It is this process's turn, to read what has changed since then; None: all."""

    changed_since: datetime | None


class CatalogueSync:
    """A background task."""

    def __init__(
        self, database: Database, known: PriceCatalogue, pages: Pages, settings: CatalogueSyncSettings
    ) -> None:
        self._database = database
        self._known = known
        self._pages = pages
        self._settings = settings
        self._reader = uuid.uuid4().hex

    async def run(self) -> None:
        """Read whenever it is due and nobody else does; runs until cancelled."""
        shortest = min(self._settings.every_seconds, self._settings.retry_seconds)
        while True:
            try:
                await self.read()
            except Fault as fault:
                log.warning("catalogue_not_read", error=str(fault))
            await asyncio.sleep(shortest * random.uniform(0.5, 1))  # noqa: S311 - so that the processes spread

    async def read(self) -> int | None:
        """Read, if it is due; how many products came; None: it was not, or it failed. Raises: DatabaseFault."""
        turn = await self._database.run_in_transaction(self._take)
        if turn is None:
            return None
        count, read_at = 0, None
        try:
            async with asyncio.timeout(self._settings.lease_seconds):
                async for page in self._pages(turn.changed_since):
                    read_at = read_at or page.read_at
                    await self._known.learn(page.products)
                    count += len(page.products)
        except (GatewayFault, TimeoutError) as fault:
            log.info("catalogue_not_read", error=str(fault))
            await self._execute(_FAILED, pause=duration_microseconds(self._settings.retry_seconds))
            return None
        await self._execute(
            _DONE,
            changed_since=None if read_at is None else to_database(read_at - OVERLAP),
            pause=duration_microseconds(self._settings.every_seconds),
            all_pause=duration_microseconds(self._settings.all_every_seconds),
            was_all=turn.changed_since is None,
        )
        return count

    async def _take(self, connection: AsyncConnection) -> _Turn | None:
        await connection.execute(_BEGIN)
        row = (await connection.execute(_LOCK)).one()
        if not row.is_due:
            return None
        await connection.execute(
            _TAKE, {"reader": self._reader, "lease": duration_microseconds(self._settings.lease_seconds)}
        )
        since = None if row.all_is_due or row.changed_since is None else from_database(row.changed_since)
        return _Turn(since)

    async def _execute(self, statement: TextClause, **values: object) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement, {**values, "reader": self._reader})

        await self._database.run_in_transaction(work)
