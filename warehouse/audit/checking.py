"""Checks the warehouse's invariants against the rows themselves, and corrects counters that drifted.

The checks run in one read-only snapshot, so that they are right under load, too. Each is a query that finds
rows which contradict an invariant: nothing found, nothing wrong. A query looks at a slice of the rows at a time,
so that the server's memory for it is bounded; no row is locked. While the snapshot is open the server keeps old
versions of rows, and ALTER TABLE waits for it: so its time is bounded, too.
"""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from secrets import randbits
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import Database
from service_kit.progress import Progress
from service_kit.times import microseconds_from_database
from warehouse.audit.queries import HELD_ON_LEVEL, QUERIES, Query
from warehouse.audit.slices import Slice, slices
from warehouse.settings import AuditSettings
from warehouse.stock.records import LevelKey, uuid7

FINDINGS_MAX = 20
"""Rows shown per check."""
SLICE_ROWS = AuditSettings().slice_rows


@dataclass(frozen=True)
class Check:
    """An invariant and the rows that contradict it, as text.

    Attributes:
        is_complete: False: the time was over before all rows were looked at.
    """

    title: str
    findings: tuple[str, ...]
    is_complete: bool = True


@dataclass(frozen=True)
class AuditReport:
    """The outcome of all checks."""

    checks: tuple[Check, ...]

    @property
    def is_clean(self) -> bool:
        """Whether no row contradicts an invariant, as far as was looked."""
        return not any(check.findings for check in self.checks)

    @property
    def is_complete(self) -> bool:
        """Whether all rows were looked at."""
        return all(check.is_complete for check in self.checks)

    @property
    def summary(self) -> str:
        """One line for people."""
        wrong = sum(1 for check in self.checks if check.findings)
        left = sum(1 for check in self.checks if not check.is_complete)
        if left:
            found = f"{wrong} checks found something wrong" if wrong else "nothing wrong was found"
            return f"the time was over: {left} of {len(self.checks)} checks were not completed; {found}"
        if not wrong:
            return f"clean: {len(self.checks)} checks found nothing wrong"
        return f"{wrong} of {len(self.checks)} checks found something wrong"


async def audit(
    url: str,
    settings: AuditSettings | None = None,
    progress: Progress | None = None,
    told: Callable[[Check], None] | None = None,
) -> AuditReport:
    """Run all checks on the database at `url`.

    Args:
        told: is given each check as soon as it is done.

    Raises: sqlalchemy.exc.DBAPIError if it is away.
    """
    bounds = settings or AuditSettings()
    give_up_at = time.monotonic() + bounds.time_limit_seconds
    database = Database(url)
    try:
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(text("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"))
            checks = []
            for query in QUERIES:
                check = await _check(connection, query, bounds.slice_rows, give_up_at, progress)
                checks.append(check)
                if told is not None:
                    told(check)
            await connection.rollback()
        return AuditReport(tuple(checks))
    finally:
        await database.close()


async def _check(
    connection: AsyncConnection, query: Query, rows: int, give_up_at: float, progress: Progress | None
) -> Check:
    findings: list[str] = []
    is_complete = True
    async with aclosing(slices(connection, query.by, rows)) as parts:
        done = 0
        async for part in parts:
            if time.monotonic() > give_up_at:
                is_complete = False
                break
            findings += await _findings(connection, query.text, part)
            if len(findings) > FINDINGS_MAX:
                break
            done += 1
            if progress is not None:
                progress.note(done, more=f"of the check {query.title!r}")
    if len(findings) > FINDINGS_MAX:
        findings[FINDINGS_MAX:] = [f"... and more; the first {FINDINGS_MAX} are shown"]
    return Check(query.title, tuple(findings), is_complete)


async def drifted_levels(url: str, rows: int = SLICE_ROWS) -> list[LevelKey]:
    """The levels whose counters are not what the reservations and the ledger say. Raises: DatabaseFault."""
    database = Database(url)
    try:
        return await _drifted(database, rows)
    finally:
        await database.close()


async def repair(url: str, rows: int = SLICE_ROWS) -> int:
    """Set the counters of drifted levels from the open reservations and the ledger; return how many were corrected.

    `reserved` becomes what is held, `on_hand` what the ledger says (never less than what is held). Each change is
    an ADJUSTMENT movement with its event, made under the level's lock. A ledger that contradicts itself is left as it
    is: that needs a person.

    Raises: DatabaseFault.
    """
    database = Database(url)
    try:
        drifted = await _drifted(database, rows)
        for key in drifted:
            await database.run_in_transaction(lambda connection, key=key: _mend(connection, key))  # type: ignore[misc]
        return len(drifted)
    finally:
        await database.close()


async def _drifted(database: Database, rows: int) -> list[LevelKey]:
    drifted: set[LevelKey] = set()
    async with database.engine.connect() as connection:
        for query in QUERIES:
            if query.title.startswith(("1.", "2. reserved is", "3. on_hand")):
                async with aclosing(slices(connection, query.by, rows)) as parts:
                    async for part in parts:
                        found = await connection.execute(text(query.text), part)
                        drifted.update((row[0], row[1]) for row in found.all())
    return sorted(drifted)


async def _findings(connection: AsyncConnection, query: str, part: Slice) -> list[str]:
    shown = text(f"SELECT * FROM ({query}) AS found LIMIT {FINDINGS_MAX + 1}")
    rows = (await connection.execute(shown, part)).mappings()
    return [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]


async def _mend(connection: AsyncConnection, key: LevelKey) -> None:
    level = await _one(
        connection,
        "SELECT on_hand, reserved FROM stock_levels WHERE product_id = :p AND warehouse_id = :w FOR UPDATE",
        key,
    )
    held = int((await _one(connection, f"SELECT COALESCE(SUM(held), 0) FROM ({HELD_ON_LEVEL}) AS h", key))[0])
    newest = f"SELECT sequence, on_hand_after, reserved_after FROM movements WHERE {_IS_KEY} ORDER BY sequence DESC"
    last = (await connection.execute(text(f"{newest} LIMIT 1"), {"p": key[0], "w": key[1]})).first()
    now = (await connection.execute(text("SELECT UTC_TIMESTAMP(6)"))).scalar_one()
    sequence, on_hand_before, reserved_before = last or (0, 0, 0)
    on_hand = max(on_hand_before if sequence else level[0], held)
    change = on_hand - on_hand_before or held - reserved_before
    values = {
        "p": key[0],
        "w": key[1],
        "sequence": sequence + 1,
        "quantity": change,
        "on_hand_before": on_hand_before,
        "on_hand": on_hand,
        "reserved_before": reserved_before,
        "held": held,
        "event_id": uuid7(microseconds_from_database(now), 1, randbits(48)),
        "now": now,
        "notes": f"repair: the counters said on_hand {level[0]}, reserved {level[1]}",
        "data": msgspec.json.encode(
            {"level": {"product_id": key[0], "warehouse_id": key[1], "on_hand": on_hand, "reserved": held}}
        ).decode(),
        "subject": f"products/{key[0]}/warehouses/{key[1]}",
    }
    for statement in _MENDING:
        await connection.execute(text(statement), values)


_IS_KEY = "product_id = :p AND warehouse_id = :w"
_MENDING = (
    f"""UPDATE stock_levels SET on_hand = :on_hand, reserved = :held, version = :sequence, updated_at = :now
    WHERE {_IS_KEY}""",
    """INSERT INTO movements (product_id, warehouse_id, sequence, type, quantity, on_hand_before, on_hand_after,
    reserved_before, reserved_after, notes, actor, event_id, created_at) VALUES (:p, :w, :sequence, 'ADJUSTMENT',
    :quantity, :on_hand_before, :on_hand, :reserved_before, :held, :notes, 'system', :event_id, :now)""",
    """INSERT INTO outbox (event_id, type, subject, data, created_at)
    VALUES (:event_id, 'warehouse.stock.changed.v1', :subject, :data, :now)""",
)


async def _one(connection: AsyncConnection, query: str, key: LevelKey) -> tuple[Any, ...]:
    return tuple((await connection.execute(text(query), {"p": key[0], "w": key[1]})).one())
