"""Answers by Idempotency-Key: the first request with a key does the work, repetitions get its answer."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.storage.tables import idempotency_keys
from service_kit.database.database import (
    DUPLICATE_KEY,
    Database,
    DatabaseFault,
    RaceLost,
    error_number,
)

log = structlog.get_logger(__name__)
RENEWALS_PER_LEASE = 3


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What was answered."""

    status: int
    location: str | None
    body: str


@dataclass(frozen=True, slots=True)
class Begun:
    """This request does the work. If an earlier one died before it could answer, `order_id` is the order it made.

    Attributes:
        since: when the key was first used; a key that is used again after its retention is another one.
        claim: what the key is claimed with; when it is another one, another request has taken over.
    """

    since: datetime
    claim: str
    order_id: int | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Reused:
    """The key came with another request before."""


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another request with this key is in progress."""


class IdempotencyStore:
    """The stored answers.

    Args:
        lease_seconds: how long a claim lasts unless it is renewed. A short one: while a request lives, `held` renews
            it, and after a request that died, or could not say any more that it failed, nobody waits longer.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._giving_up: set[asyncio.Task[None]] = set()

    async def begin(self, owner: str, key: str, request_hash: str) -> StoredResponse | Begun | Reused | InProgress:
        """Claim a key for a request, or find what became of it."""
        claim = uuid.uuid4().hex

        async def work(connection: AsyncConnection) -> StoredResponse | Begun | Reused | InProgress:
            columns = idempotency_keys.c
            row = (
                await connection.execute(
                    select(idempotency_keys, (columns.claimed_until > func.now(6)).label("at_work"))
                    .where(columns.owner == owner, columns.idempotency_key == key)
                    .with_for_update(skip_locked=True)
                )
            ).one_or_none()
            if row is None:
                since = await self._insert(connection, owner, key, request_hash, claim)
                return Begun(since, claim) if since is not None else InProgress()
            if row.request_hash != request_hash:
                return Reused()
            if row.status is not None:
                return StoredResponse(row.status, row.location, row.body)
            if row.at_work:
                # An earlier try of this transaction may have been committed without an answer.
                return Begun(row.created_at, claim, row.order_id) if row.claim == claim else InProgress()
            await self._claim(connection, owner, key, claim)
            return Begun(row.created_at, claim, row.order_id, resumed=True)

        return await self._database.run_in_transaction(work)

    @contextlib.asynccontextmanager
    async def held(self, owner: str, key: str, claim: str) -> AsyncIterator[None]:
        """For the time of a request: its claim is renewed; one that is broken off gives it up."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        # Hardly any request takes so long: nothing is begun before.
        timer = loop.call_later(
            self._lease_seconds / RENEWALS_PER_LEASE,
            lambda: tasks.append(loop.create_task(self._renew(owner, key, claim))),
        )
        try:
            yield
        except BaseException:
            # Not waited for: the database may be what the request was waiting for.
            task = loop.create_task(self._give_up(owner, key, claim))
            self._giving_up.add(task)
            task.add_done_callback(self._giving_up.discard)
            raise
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()

    async def finish(self, owner: str, key: str, claim: str, answer: StoredResponse) -> None:
        """Keep the answer, unless another request has taken over."""

        async def work(connection: AsyncConnection) -> None:
            columns = idempotency_keys.c
            await connection.execute(
                update(idempotency_keys)
                .where(columns.owner == owner, columns.idempotency_key == key, columns.claim == claim)
                .values(status=answer.status, location=answer.location, body=answer.body)
            )

        await self._database.run_in_transaction(work)

    async def release(self, owner: str, key: str, claim: str) -> None:
        """The request failed without a lasting answer: a repetition may try again at once."""

        async def work(connection: AsyncConnection) -> None:
            columns = idempotency_keys.c
            await connection.execute(
                update(idempotency_keys)
                .where(columns.owner == owner, columns.idempotency_key == key, columns.claim == claim)
                .values(claim="", claimed_until=func.now(6))
            )

        await self._database.run_in_transaction(work)

    async def _renew(self, owner: str, key: str, claim: str) -> None:
        """Renew a claim again and again, until cancelled; what another request has taken over stays so."""
        columns = idempotency_keys.c
        lease = text(f"TIMESTAMPADD(MICROSECOND, {round(self._lease_seconds * 1e6)}, NOW(6))")
        renewal = (
            update(idempotency_keys)
            .where(columns.owner == owner, columns.idempotency_key == key, columns.claim == claim)
            .values(claimed_until=lease)
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(renewal)

        while True:
            try:
                await self._database.run_in_transaction(work)
            except DatabaseFault as fault:
                log.info("claim_not_renewed", error=str(fault))
            await asyncio.sleep(self._lease_seconds / RENEWALS_PER_LEASE)

    async def _give_up(self, owner: str, key: str, claim: str) -> None:
        try:
            await self.release(owner, key, claim)
        except DatabaseFault as fault:
            log.info("claim_not_released", error=str(fault))

    async def _insert(
        self, connection: AsyncConnection, owner: str, key: str, request_hash: str, claim: str
    ) -> datetime | None:
        """Claim a key for the first time: since when; None if it is there, and somebody else has it locked.

        Waiting for that lock would keep a connection of the pool from all others.
        """
        columns = idempotency_keys.c
        known = select(columns.owner).where(columns.owner == owner, columns.idempotency_key == key).exists()
        now, is_known = (await connection.execute(select(func.now(6), known))).one()
        if is_known:
            return None
        row = {
            "owner": owner,
            "idempotency_key": key,
            "request_hash": request_hash,
            "claim": claim,
            "claimed_until": now + timedelta(seconds=self._lease_seconds),
            "created_at": now,
        }
        try:
            await connection.execute(insert(idempotency_keys).values(row))
        except Exception as error:
            if error_number(error) == DUPLICATE_KEY:
                raise RaceLost("another request came with the same key") from error
            raise
        assert isinstance(now, datetime)
        return now

    async def _claim(self, connection: AsyncConnection, owner: str, key: str, claim: str) -> None:
        now = (await connection.execute(text("SELECT NOW(6)"))).scalar_one()
        columns = idempotency_keys.c
        await connection.execute(
            update(idempotency_keys)
            .where(columns.owner == owner, columns.idempotency_key == key)
            .values(claim=claim, claimed_until=now + timedelta(seconds=self._lease_seconds))
        )
