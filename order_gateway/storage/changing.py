"""Carries out batches of changes to orders: lock and read, let the events happen, write, commit. Two round trips."""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from order_gateway.lifecycle import Order, OrderNotFound
from order_gateway.storage import statements
from order_gateway.storage.applying import Applied, Change, Changes, apply_event
from order_gateway.storage.rows import (
    encode,
    orders_of,
    read_versions,
)
from service_kit.batcher import SetAside
from service_kit.database import atomic_packet
from service_kit.database.database import (
    SNAPSHOT,
    Database,
    DatabaseFault,
    error_number,
)
from service_kit.database.json_table import bounded
from service_kit.stuck_rows import LOCK_WAITS, WRITE_WAITS, RowsLocked, StuckRows, WriteBlocked

log = structlog.get_logger(__name__)
ORDER_LOCKED_MESSAGE = "another session keeps this order locked, ask again"
WRITE_HELD_UP_SECONDS = 10.0
"""How long an order is told to come again whose rows could not be written because of somebody else's locks."""
_READS = (statements.READ_ITEMS, statements.READ_RESERVATIONS, statements.CLOCK)


class Work(msgspec.Struct, frozen=True):
    """A change to an order.

    Attributes:
        traceparent: of the request that asked for it.
        known: the order as the caller saw it last.
    """

    order_id: int
    change: Change
    traceparent: str
    known: Order | None = None


Result = Applied | Exception | SetAside


class Changing:
    """Carries out changes and reads, one batch of each at a time, on two connections of its own.

    Args:
        grace_seconds: how long a hold outlives its order's time to be paid.
    """

    def __init__(self, database: Database, grace_seconds: float) -> None:
        self._database = database
        self._grace_seconds = grace_seconds
        self._session = database.session()
        self._reading = database.session()
        self._stuck: StuckRows[int] = StuckRows(database.settings)
        patience = database.settings.lock_patience_seconds
        self._lock_versions = bounded(statements.LOCK_VERSIONS, patience)
        self._lock_orders = bounded(statements.LOCK_ORDERS, patience)

    async def process(self, work: Sequence[Work]) -> list[Result]:
        """Carry out changes in order, in one transaction if that can be done.

        SetAside stands for a change to an order that somebody else keeps locked. Raises: DatabaseFault.
        """
        results: dict[int, Result] = {}
        todo = list(range(len(work)))
        while todo:
            # An order's second change must see what its first one left: it waits for the next transaction.
            seen: set[int] = set()
            now: list[int] = []
            later: list[int] = []
            for position in todo:
                (later if work[position].order_id in seen else now).append(position)
                seen.add(work[position].order_id)
            done = await self._together([work[position] for position in now])
            results.update(zip(now, done, strict=True))
            todo = later
        return [results[position] for position in range(len(work))]

    async def read(self, order_ids: Sequence[int]) -> list[Order | Exception]:
        """The orders, without locks; OrderNotFound for one that does not exist. Raises: DatabaseFault."""
        values = {"ids": _ids(order_ids)}

        async def attempt() -> dict[int, Order]:
            try:
                # Of one moment: an order, its items and its holds are written together, and so they are read.
                steps = (SNAPSHOT, statements.READ_ORDERS, *_READS, atomic_packet.COMMIT)
                *_, orders, items, holds, [(now,)], _ = await self._reading.execute(";".join(steps), values)
            except BaseException:
                await self._reading.close()
                raise
            return orders_of((orders, items, holds), now)

        found = await self._database.retry(attempt)
        return [found.get(order_id) or _missing(order_id) for order_id in order_ids]

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._reading.close()

    async def _together(self, work: Sequence[Work], *, is_again: bool = False) -> list[Result]:
        """One transaction; if it fails on its data, or on locks that last, halves, until the culprit stands alone."""
        tried: dict[int, Applied] = {}
        try:
            return await self._database.retry(lambda: self._attempt(work, tried))
        except DatabaseFault:
            raise
        except Exception as error:
            if len(work) == 1:
                order_id = work[0].order_id
                if isinstance(error, WriteBlocked) and not is_again:
                    return await self._together(work, is_again=True)
                if isinstance(error, WriteBlocked):
                    log.warning("change_held_up", order_id=order_id, error=repr(error.__cause__))
                    return [
                        self._stuck.follow([order_id], self._stuck.now() + WRITE_HELD_UP_SECONDS, ORDER_LOCKED_MESSAGE)
                    ]
                log.exception("change_failed", order_id=order_id)
                return [error]
        middle = len(work) // 2
        return [*await self._together(work[:middle]), *await self._together(work[middle:])]

    async def _attempt(self, work: Sequence[Work], tried: dict[int, Applied], *, waits: bool = True) -> list[Result]:
        """One try.

        Args:
            tried: what earlier tries were about to commit, by order: the answer to COMMIT may be lost.
            waits: whether to wait for locked orders, for a moment; afterwards those that are free go on alone.
        """
        is_writing = False
        try:
            orders, now, aside = await self._lock_and_read(work, waits=waits)
            changes = Changes()
            applied = [
                aside.get(one.order_id) or self._apply(one, orders.get(one.order_id), tried, changes, now)
                for one in work
            ]
            if not changes.rows:
                await self._session.rollback()
                return applied
            for one in applied:
                if isinstance(one, Applied) and one.order is not orders[one.order.id]:
                    tried[one.order.id] = one
            is_writing = True
            await self._write(changes)
        except BaseException as error:
            await self._session.rollback()
            number = error_number(error)
            if is_writing and number in WRITE_WAITS:
                raise WriteBlocked from error
            if is_writing or not waits or number not in LOCK_WAITS:
                raise
        else:
            return applied
        return await self._attempt(work, tried, waits=False)

    def _apply(
        self, work: Work, order: Order | None, tried: dict[int, Applied], changes: Changes, now: int
    ) -> Applied | Exception:
        if order is None:
            return _missing(work.order_id)
        before = tried.get(order.id)
        # Written under the order's lock, so no other change has this instant: it is what the earlier try did.
        if before is not None and (before.order.version, before.order.updated_at) == (order.version, order.updated_at):
            return Applied(order, before.result)
        return apply_event(
            order, work.change, changes, now=now, grace_seconds=self._grace_seconds, traceparent=work.traceparent
        )

    async def _lock_and_read(
        self, work: Sequence[Work], *, waits: bool
    ) -> tuple[dict[int, Order], int, dict[int, SetAside]]:
        if self._stuck or not waits:
            return await self._lock_what_is_free({one.order_id for one in work})
        known = {one.order_id: one.known for one in work if one.known is not None}
        unknown = [one.order_id for one in work if one.known is None]
        lock = (self._lock_versions,) if known else ()
        reads = (self._lock_orders, *_READS) if unknown or not known else (statements.CLOCK,)
        values = {"ids": _ids(unknown), "known_ids": _ids(known)}
        _, *rows, [(now,)] = await self._session.execute(";".join((statements.BEGIN, *lock, *reads)), values)
        orders: dict[int, Order] = {}
        if known:
            orders, changed = _unchanged(known, rows.pop(0))
            if changed:
                again = ";".join((statements.READ_ORDERS, *_READS))
                *rows_of_changed, [(now,)] = await self._session.execute(again, {"ids": _ids(changed)})
                orders.update(orders_of(rows_of_changed, now))
        if unknown:
            orders.update(orders_of(rows, now))
        return orders, now, {}

    async def _lock_what_is_free(self, order_ids: set[int]) -> tuple[dict[int, Order], int, dict[int, SetAside]]:
        """The orders that nobody else has, and what stands in the place of changes to the others."""
        now = self._stuck.now()
        self._stuck.forget_followed(now)
        held_up = {one: until for one in order_ids if (until := self._stuck.follows([one], now)) is not None}
        left_alone = self._stuck.sort(order_ids, now).left_alone | held_up.keys()
        wanted = order_ids - left_alone
        steps = (statements.BEGIN, statements.LOCK_FREE_ORDERS, statements.READ_ORDER_IDS, *_READS)
        _, heads, ids, *rows, [(clock,)] = await self._session.execute(";".join(steps), {"ids": _ids(wanted)})
        orders = orders_of([heads, *rows], clock)
        locked = {row[0] for row in ids} - orders.keys()
        if fresh := [order_id for order_id in locked if order_id not in self._stuck]:
            log.warning("rows_locked", orders=fresh)
        self._stuck.found_locked(dict.fromkeys(locked), now)
        self._stuck.found_free(wanted - locked)
        aside = {
            order_id: self._stuck.set_aside([order_id], (), now, ORDER_LOCKED_MESSAGE)
            for order_id in locked | left_alone
        }
        aside.update(
            {order_id: SetAside(until, RowsLocked(ORDER_LOCKED_MESSAGE)) for order_id, until in held_up.items()}
        )
        return orders, clock, aside

    async def _write(self, changes: Changes) -> None:
        """Write and commit."""
        values: dict[str, Any] = {kind: encode(rows).decode() for kind, rows in changes.rows.items()}
        steps = [statements.WRITES[kind] for kind in changes.rows]
        await atomic_packet.finish(self._session, steps, values)


def _unchanged(known: dict[int, Order], rows: Sequence[tuple[str | None]]) -> tuple[dict[int, Order], list[int]]:
    """The orders that are still as they are known, and the ids of those that are not."""
    versions = [one for (row,) in rows if row for one in read_versions(row)]
    same = {order_id: known[order_id] for order_id, version in versions if known[order_id].version == version}
    return same, [order_id for order_id, _ in versions if order_id not in same]


def _missing(order_id: int) -> OrderNotFound:
    return OrderNotFound(f"there is no order {order_id}")


def _ids(order_ids: Any) -> str:
    """Sorted, so that the orders are locked in this order."""
    return encode([[order_id] for order_id in sorted(set(order_ids))]).decode()
