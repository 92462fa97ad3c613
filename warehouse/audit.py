"""Checks the warehouse's invariants against the rows themselves, and mends counters that drifted.

The checks run in one read-only snapshot, so that they are right under load, too. Each is a query that finds
rows which contradict an invariant: nothing found, nothing wrong.
"""

from dataclasses import dataclass
from secrets import randbits
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database import Database
from warehouse.queries import to_instant
from warehouse.records import LevelKey, uuid7

FINDINGS_MAX = 20
"""Rows shown per check."""

_HELD = """
    SELECT l.product_id, l.warehouse_id, SUM(l.quantity) AS held
    FROM reservations AS r JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
    WHERE r.state = 'RESERVED' GROUP BY l.product_id, l.warehouse_id"""

_LEDGER = """
    SELECT product_id, warehouse_id, COUNT(*) AS movements, MAX(sequence) AS last_sequence,
           SUM(on_hand_after - on_hand_before) AS on_hand, SUM(reserved_after - reserved_before) AS reserved
    FROM movements GROUP BY product_id, warehouse_id"""

_EFFECTS = """
    SELECT CONVERT(reference USING ascii) COLLATE ascii_bin AS reservation_id, product_id, warehouse_id,
           SUM(on_hand_after - on_hand_before) AS on_hand, SUM(reserved_after - reserved_before) AS reserved
    FROM movements WHERE type IN ('RESERVED', 'COMMITTED', 'RELEASED', 'EXPIRED')
    GROUP BY reference, product_id, warehouse_id"""

# Stored answers: the positions are those of the fields of `commands.Answer` and of the `records` in it.
_TOLD = """
    SELECT q.request_id, told.reservation_id, told.state
    FROM request_ids AS q, JSON_TABLE(q.answer, '$[0][*]' COLUMNS (
        reservation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
        state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin PATH '$[3]')) AS told"""

_TOLD_MOVEMENTS = """
    SELECT request_id, CAST(JSON_EXTRACT(answer, '$[2][0]') AS SIGNED) AS product_id,
           CAST(JSON_EXTRACT(answer, '$[2][1]') AS SIGNED) AS warehouse_id,
           CAST(JSON_EXTRACT(answer, '$[2][2]') AS SIGNED) AS sequence
    FROM request_ids WHERE JSON_LENGTH(answer, '$[2]') > 1"""

_TOLD_CATALOGUE = """
    SELECT request_id, CAST(JSON_EXTRACT(answer, '$[4][0]') AS SIGNED) AS product_id,
           CAST(JSON_EXTRACT(answer, '$[5][0]') AS SIGNED) AS warehouse_id
    FROM request_ids WHERE JSON_LENGTH(answer, '$[4]') > 1 OR JSON_LENGTH(answer, '$[5]') > 1"""

_SAME_LEVEL = "a.product_id = b.product_id AND a.warehouse_id = b.warehouse_id"

QUERIES: tuple[tuple[str, str], ...] = (
    (
        "1. 0 <= reserved <= on_hand on every stock level",
        """SELECT product_id, warehouse_id, on_hand, reserved FROM stock_levels
        WHERE reserved < 0 OR reserved > on_hand""",
    ),
    (
        "2. reserved is the sum of the open reservations' lines",
        f"""SELECT a.product_id, a.warehouse_id, a.reserved, COALESCE(b.held, 0) AS held FROM stock_levels AS a
        LEFT JOIN ({_HELD}) AS b ON {_SAME_LEVEL} WHERE a.reserved <> COALESCE(b.held, 0)""",
    ),
    (
        "2. every open reservation's line has its stock level",
        f"""SELECT a.product_id, a.warehouse_id, a.held FROM ({_HELD}) AS a
        LEFT JOIN stock_levels AS b ON {_SAME_LEVEL} WHERE b.product_id IS NULL""",
    ),
    (
        "2. every reservation but a tombstone has lines",
        """SELECT r.reservation_id, r.order_id, r.state FROM reservations AS r
        LEFT JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
        WHERE r.expires_at > r.created_at AND l.reservation_id IS NULL""",
    ),
    (
        "2. every line has its reservation",
        """SELECT l.reservation_id, l.product_id, l.warehouse_id FROM reservation_lines AS l
        LEFT JOIN reservations AS r ON r.reservation_id = l.reservation_id WHERE r.reservation_id IS NULL""",
    ),
    (
        "3. on_hand, reserved and version are the sums of the movements",
        f"""SELECT a.product_id, a.warehouse_id, a.on_hand, b.on_hand AS ledger_on_hand, a.reserved,
        b.reserved AS ledger_reserved, a.version, b.movements FROM stock_levels AS a
        LEFT JOIN ({_LEDGER}) AS b ON {_SAME_LEVEL}
        WHERE b.product_id IS NULL OR a.on_hand <> b.on_hand OR a.reserved <> b.reserved
        OR a.version <> b.movements OR a.version <> b.last_sequence""",
    ),
    (
        "3. each movement begins where the one before it ended",
        f"""SELECT b.product_id, b.warehouse_id, b.sequence, a.on_hand_after AS on_hand_before_it, b.on_hand_before,
        a.reserved_after AS reserved_before_it, b.reserved_before FROM movements AS b
        LEFT JOIN movements AS a ON {_SAME_LEVEL} AND a.sequence = b.sequence - 1
        WHERE b.on_hand_before <> COALESCE(a.on_hand_after, 0) OR b.reserved_before <> COALESCE(a.reserved_after, 0)""",
    ),
    (
        "4. each reservation had its effect exactly once",
        f"""SELECT r.reservation_id, r.state, l.product_id, l.warehouse_id, l.quantity, l.committed_quantity,
        m.on_hand AS moved_on_hand, m.reserved AS moved_reserved
        FROM reservations AS r
        JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
        LEFT JOIN ({_EFFECTS}) AS m ON m.reservation_id = r.reservation_id
        AND m.product_id = l.product_id AND m.warehouse_id = l.warehouse_id
        WHERE m.reservation_id IS NULL OR m.reserved <> IF(r.state = 'RESERVED', l.quantity, 0)
        OR m.on_hand <> IF(r.state = 'COMMITTED', -l.committed_quantity, 0)""",
    ),
    (
        "5. each reservation that a request id was answered is in the tables, and still ended if it was",
        f"""SELECT a.request_id, a.reservation_id, a.state AS answered_state, r.state FROM ({_TOLD}) AS a
        LEFT JOIN reservations AS r ON r.reservation_id = a.reservation_id
        WHERE r.reservation_id IS NULL OR (a.state IN ('COMMITTED', 'CANCELLED') AND a.state <> r.state)""",
    ),
    (
        "5. each movement that a request id was answered is in the ledger",
        f"""SELECT a.request_id, a.product_id, a.warehouse_id, a.sequence FROM ({_TOLD_MOVEMENTS}) AS a
        LEFT JOIN movements AS b ON {_SAME_LEVEL} AND a.sequence = b.sequence WHERE b.sequence IS NULL""",
    ),
    (
        "5. each product and warehouse that a request id was answered is in the catalogue",
        f"""SELECT a.request_id, a.product_id, a.warehouse_id FROM ({_TOLD_CATALOGUE}) AS a
        LEFT JOIN products AS p ON p.product_id = a.product_id
        LEFT JOIN warehouses AS w ON w.warehouse_id = a.warehouse_id
        WHERE p.product_id IS NULL AND w.warehouse_id IS NULL""",
    ),
    (
        "6. every movement has its event",
        """SELECT m.product_id, m.warehouse_id, m.sequence, m.event_id FROM movements AS m
        LEFT JOIN outbox AS o ON o.event_id = m.event_id WHERE o.event_id IS NULL""",
    ),
    (
        "6. every event about stock has its movement",
        """SELECT o.event_id, o.type, o.subject FROM outbox AS o
        LEFT JOIN (SELECT DISTINCT event_id FROM movements) AS m ON m.event_id = o.event_id
        WHERE o.type <> 'warehouse.reservation.extended.v1' AND m.event_id IS NULL""",
    ),
)
"""What is promised, and the query that finds rows which break the promise."""


@dataclass(frozen=True)
class Check:
    """An invariant and the rows that contradict it, as text."""

    title: str
    findings: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The outcome of all checks."""

    checks: tuple[Check, ...]

    @property
    def is_clean(self) -> bool:
        """Whether no row contradicts an invariant."""
        return not any(check.findings for check in self.checks)

    @property
    def summary(self) -> str:
        """One line for people."""
        wrong = sum(1 for check in self.checks if check.findings)
        if not wrong:
            return f"clean: {len(self.checks)} checks found nothing wrong"
        return f"{wrong} of {len(self.checks)} checks found something wrong"


async def audit(url: str) -> AuditReport:
    """Run all checks on the database at `url`. Raises: sqlalchemy.exc.DBAPIError if it is away."""
    database = Database(url)
    try:
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(text("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"))
            checks = [Check(title, await _findings(connection, query)) for title, query in QUERIES]
            await connection.rollback()
        return AuditReport(tuple(checks))
    finally:
        await database.close()


async def repair(url: str) -> int:
    """Set the counters of drifted levels from the open reservations and the ledger; return how many were mended.

    `reserved` becomes what is held, `on_hand` what the ledger says (never less than what is held). Each change is
    an ADJUSTMENT movement with its event, made under the level's lock. A ledger that contradicts itself is left as it
    is: that needs a person.

    Raises: DatabaseFault.
    """
    database = Database(url)
    try:
        async with database.engine.connect() as connection:
            drifted: set[LevelKey] = set()
            for title, query in QUERIES:
                if title.startswith(("1.", "2. reserved is", "3. on_hand")):
                    drifted.update((row[0], row[1]) for row in (await connection.execute(text(query))).all())
        for key in sorted(drifted):
            await database.run_in_transaction(lambda connection, key=key: _mend(connection, key))  # type: ignore[misc]
        return len(drifted)
    finally:
        await database.close()


async def _findings(connection: AsyncConnection, query: str) -> tuple[str, ...]:
    rows = (await connection.execute(text(f"SELECT * FROM ({query}) AS found LIMIT {FINDINGS_MAX + 1}"))).mappings()
    shown = [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]
    if len(shown) > FINDINGS_MAX:
        shown[FINDINGS_MAX:] = [f"... and more; the first {FINDINGS_MAX} are shown"]
    return tuple(shown)


async def _mend(connection: AsyncConnection, key: LevelKey) -> None:
    level = await _one(
        connection,
        "SELECT on_hand, reserved FROM stock_levels WHERE product_id = :p AND warehouse_id = :w FOR UPDATE",
        key,
    )
    held = int((await _one(connection, f"SELECT COALESCE(SUM(held), 0) FROM ({_HELD}) AS h WHERE {_IS_KEY}", key))[0])
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
        "event_id": uuid7(to_instant(now), 1, randbits(48)),
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
