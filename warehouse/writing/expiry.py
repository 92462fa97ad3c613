"""Ends holds whose time is over, through the same batcher as everything else.

Safe with any number of servers: a sweep passes over rows that another one has locked, and a hold that was
ended meanwhile is simply found closed. A hold that can't be ended (its rows contradict each other) is logged
and left alone; the sweep goes on behind it.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.batcher import Batcher, BatcherFull
from service_kit.database.database import Database, DatabaseFault
from service_kit.stuck_rows import RowsLocked
from warehouse.reading.tables import reservations
from warehouse.stock.commands import Answer, Command, Expire
from warehouse.stock.records import State
from warehouse.stock.refusals import Refusal

log = structlog.get_logger(__name__)
FULL_PAUSE_SECONDS = 0.05
"""Before a page is tried again of which a full batcher took nothing."""
_Position = tuple[datetime, str]


class Sweeper:
    """Finds overdue holds and submits an Expire for each.

    Args:
        database: where to look.
        batcher: of the store that all commands go to.
        size_max: how many holds are ended together.
        pause_seconds: between two sweeps of `run`.

    Attributes:
        expired: holds that it ended so far.
        lag_seconds: how long the oldest overdue hold had been overdue when the last sweep found it.
        swept_at: monotonic time of the last sweep's end.
    """

    def __init__(
        self, database: Database, batcher: Batcher[Command, Answer | Refusal], size_max: int, pause_seconds: float
    ) -> None:
        self._database = database
        self._batcher = batcher
        self._size_max = size_max
        self._pause_seconds = pause_seconds
        self.expired = 0
        self.lag_seconds = 0.0
        self.swept_at = time.monotonic()

    async def run(self) -> None:
        """Sweep, pause, sweep, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            try:
                expired = await self.sweep(asyncio.get_running_loop().time() + 60)
            except DatabaseFault as fault:
                log.warning("sweep_failed", error=str(fault))
            except Exception:
                # Whatever it is, the holds that expire from now on still need a sweep.
                log.exception("sweep_failed")
            else:
                if expired:
                    log.info("holds_expired", count=expired)

    async def sweep(self, deadline: float) -> int:
        """End all holds that are overdue now, or as many as can be by `deadline` (the loop's time).

        Returns how many this call ended. Raises: DatabaseFault.
        """
        expired, position = 0, None
        while asyncio.get_running_loop().time() < deadline:
            overdue = await self._overdue(position)
            if not overdue:
                break
            submitted, ended = await self._expire([reservation_id for _, reservation_id in overdue])
            expired += ended
            if submitted:
                position = overdue[submitted - 1]
            else:
                await asyncio.sleep(FULL_PAUSE_SECONDS)
        self.expired += expired
        self.swept_at = time.monotonic()
        return expired

    async def _expire(self, ids: list[str]) -> tuple[int, int]:
        """End these holds, or as many of the first as the batcher takes: how many those were, and how many ended.

        Raises: DatabaseFault.
        """
        pending: list[asyncio.Future[Answer | Refusal]] = []
        for reservation_id in ids:
            try:
                pending.append(self._batcher.submit(Expire(reservation_id), is_patient=False))
            except BatcherFull:
                # Callers come first; the next page begins with what was not taken.
                break
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        for reservation_id, outcome in zip(ids, outcomes, strict=False):
            if isinstance(outcome, DatabaseFault) and not isinstance(outcome, RowsLocked):
                raise outcome
            if isinstance(outcome, RowsLocked):
                log.warning("hold_not_expired", reservation_id=reservation_id, error=str(outcome))
            elif isinstance(outcome, BaseException):
                log.error("hold_not_expired", reservation_id=reservation_id, error=str(outcome))
        return len(pending), sum(1 for one in outcomes if isinstance(one, Answer) and one.reservations)

    async def _overdue(self, after: _Position | None) -> list[_Position]:
        """The next overdue holds behind `after`, without those that somebody is working on."""
        table = reservations.c
        query = select(table.expires_at, table.reservation_id, func.utc_timestamp(6).label("now")).where(
            table.state == State.RESERVED, table.expires_at <= func.utc_timestamp(6)
        )
        if after is not None:
            same = and_(table.expires_at == after[0], table.reservation_id > after[1])
            query = query.where(table.expires_at >= after[0], or_(table.expires_at > after[0], same))
        query = query.order_by(table.expires_at, table.reservation_id).limit(self._size_max)

        async def read(connection: AsyncConnection) -> Sequence[Row[Any, Any, Any]]:
            return (await connection.execute(query.with_for_update(skip_locked=True))).all()

        rows = await self._database.run_in_transaction(read)
        if after is None:
            self.lag_seconds = (rows[0].now - rows[0].expires_at).total_seconds() if rows else 0.0
        return [(row.expires_at, row.reservation_id) for row in rows]
