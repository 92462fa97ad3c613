"""The audit's queries: each finds rows which contradict an invariant, among a slice of the rows.

A slice is a range of keys, or the rows whose key has a certain remainder: so no statement makes a temporary table, or
runs for a time, that grows with the whole database. How many slices there are, says `audit`.
"""

from dataclasses import dataclass
from enum import StrEnum


class By(StrEnum):
    """What a query's slices are cut by; its statement has the parameters that belong to it.

    PRODUCT: `low` < product_id <= `high`. PRODUCT_AND_HASH: the same, and `part` of `parts` of each product's rows by
    the reservation that they are about. RESERVATION, REQUEST: `low` < id <= `high` (NULL: no end). HASH: `part` of
    `parts` by the event's id.
    """

    PRODUCT = "product"
    PRODUCT_AND_HASH = "product_and_hash"
    RESERVATION = "reservation"
    REQUEST = "request"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class Query:
    """What is promised, and the query that finds rows which break the promise."""

    title: str
    by: By
    text: str


def _products(alias: str) -> str:
    return f"{alias}.product_id > :low AND {alias}.product_id <= :high"


def _range(column: str) -> str:
    return f"{column} > :low AND (:high IS NULL OR {column} <= :high)"


def _part(column: str) -> str:
    return f"MOD(CRC32({column}), :parts) = :part"


_SAME_LEVEL = "a.product_id = b.product_id AND a.warehouse_id = b.warehouse_id"

_HELD_WHERE = """
    SELECT l.product_id, l.warehouse_id, SUM(l.quantity) AS held
    FROM reservations AS r JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
    WHERE r.state = 'RESERVED' AND {where} GROUP BY l.product_id, l.warehouse_id"""
HELD_ON_LEVEL = _HELD_WHERE.format(where="l.product_id = :p AND l.warehouse_id = :w")
"""What is held on one level."""
_HELD = _HELD_WHERE.format(where=_products("l"))

_LEDGER = f"""
    SELECT product_id, warehouse_id, COUNT(*) AS movements, MAX(sequence) AS last_sequence,
           SUM(on_hand_after - on_hand_before) AS on_hand, SUM(reserved_after - reserved_before) AS reserved
    FROM movements AS m WHERE {_products("m")} GROUP BY product_id, warehouse_id"""

_EFFECTS = f"""
    SELECT CONVERT(reference USING ascii) COLLATE ascii_bin AS reservation_id, product_id, warehouse_id,
           SUM(on_hand_after - on_hand_before) AS on_hand, SUM(reserved_after - reserved_before) AS reserved
    FROM movements AS m WHERE type IN ('RESERVED', 'COMMITTED', 'RELEASED', 'EXPIRED')
    AND {_products("m")} AND {_part("m.reference")}
    GROUP BY reference, product_id, warehouse_id"""

# Stored answers: the positions are those of the fields of `commands.Answer` and of the `records` in it.
_TOLD = f"""
    SELECT q.request_id, told.reservation_id, told.state
    FROM request_ids AS q, JSON_TABLE(q.answer, '$[0][*]' COLUMNS (
        reservation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
        state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin PATH '$[3]')) AS told
    WHERE {_range("q.request_id")}"""

_TOLD_MOVEMENTS = f"""
    SELECT request_id, CAST(JSON_EXTRACT(answer, '$[2][0]') AS SIGNED) AS product_id,
           CAST(JSON_EXTRACT(answer, '$[2][1]') AS SIGNED) AS warehouse_id,
           CAST(JSON_EXTRACT(answer, '$[2][2]') AS SIGNED) AS sequence
    FROM request_ids WHERE JSON_LENGTH(answer, '$[2]') > 1 AND {_range("request_id")}"""

_TOLD_CATALOGUE = f"""
    SELECT request_id, CAST(JSON_EXTRACT(answer, '$[4][0]') AS SIGNED) AS product_id,
           CAST(JSON_EXTRACT(answer, '$[5][0]') AS SIGNED) AS warehouse_id
    FROM request_ids WHERE (JSON_LENGTH(answer, '$[4]') > 1 OR JSON_LENGTH(answer, '$[5]') > 1)
    AND {_range("request_id")}"""

QUERIES = (
    Query(
        "1. 0 <= reserved <= on_hand on every stock level",
        By.PRODUCT,
        f"""SELECT product_id, warehouse_id, on_hand, reserved FROM stock_levels AS a
        WHERE (reserved < 0 OR reserved > on_hand) AND {_products("a")}""",
    ),
    Query(
        "2. reserved is the sum of the open reservations' lines",
        By.PRODUCT,
        f"""SELECT a.product_id, a.warehouse_id, a.reserved, COALESCE(b.held, 0) AS held FROM stock_levels AS a
        LEFT JOIN ({_HELD}) AS b ON {_SAME_LEVEL}
        WHERE a.reserved <> COALESCE(b.held, 0) AND {_products("a")}""",
    ),
    Query(
        "2. every open reservation's line has its stock level",
        By.PRODUCT,
        f"""SELECT a.product_id, a.warehouse_id, a.held FROM ({_HELD}) AS a
        LEFT JOIN stock_levels AS b ON {_SAME_LEVEL} WHERE b.product_id IS NULL""",
    ),
    Query(
        "2. every reservation but a tombstone has lines",
        By.RESERVATION,
        f"""SELECT r.reservation_id, r.order_id, r.state FROM reservations AS r
        LEFT JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
        WHERE r.expires_at > r.created_at AND l.reservation_id IS NULL AND {_range("r.reservation_id")}""",
    ),
    Query(
        "2. every line has its reservation",
        By.RESERVATION,
        f"""SELECT l.reservation_id, l.product_id, l.warehouse_id FROM reservation_lines AS l
        LEFT JOIN reservations AS r ON r.reservation_id = l.reservation_id
        WHERE r.reservation_id IS NULL AND {_range("l.reservation_id")}""",
    ),
    Query(
        "3. on_hand, reserved and version are the sums of the movements",
        By.PRODUCT,
        f"""SELECT a.product_id, a.warehouse_id, a.on_hand, b.on_hand AS ledger_on_hand, a.reserved,
        b.reserved AS ledger_reserved, a.version, b.movements FROM stock_levels AS a
        LEFT JOIN ({_LEDGER}) AS b ON {_SAME_LEVEL}
        WHERE (b.product_id IS NULL OR a.on_hand <> b.on_hand OR a.reserved <> b.reserved
        OR a.version <> b.movements OR a.version <> b.last_sequence) AND {_products("a")}""",
    ),
    Query(
        "3. each movement begins where the one before it ended",
        By.PRODUCT,
        f"""SELECT b.product_id, b.warehouse_id, b.sequence, a.on_hand_after AS on_hand_before_it, b.on_hand_before,
        a.reserved_after AS reserved_before_it, b.reserved_before FROM movements AS b
        LEFT JOIN movements AS a ON {_SAME_LEVEL} AND a.sequence = b.sequence - 1
        WHERE (b.on_hand_before <> COALESCE(a.on_hand_after, 0)
        OR b.reserved_before <> COALESCE(a.reserved_after, 0)) AND {_products("b")}""",
    ),
    Query(
        "4. each reservation had its effect exactly once",
        By.PRODUCT_AND_HASH,
        f"""SELECT r.reservation_id, r.state, l.product_id, l.warehouse_id, l.quantity, l.committed_quantity,
        m.on_hand AS moved_on_hand, m.reserved AS moved_reserved
        FROM reservations AS r
        JOIN reservation_lines AS l ON l.reservation_id = r.reservation_id
        LEFT JOIN ({_EFFECTS}) AS m ON m.reservation_id = r.reservation_id
        AND m.product_id = l.product_id AND m.warehouse_id = l.warehouse_id
        WHERE (m.reservation_id IS NULL OR m.reserved <> IF(r.state = 'RESERVED', l.quantity, 0)
        OR m.on_hand <> IF(r.state = 'COMMITTED', -l.committed_quantity, 0))
        AND {_products("l")} AND {_part("l.reservation_id")}""",
    ),
    Query(
        "5. each reservation that a request id was answered is in the tables, and still ended if it was",
        By.REQUEST,
        f"""SELECT a.request_id, a.reservation_id, a.state AS answered_state, r.state FROM ({_TOLD}) AS a
        LEFT JOIN reservations AS r ON r.reservation_id = a.reservation_id
        WHERE r.reservation_id IS NULL OR (a.state IN ('COMMITTED', 'CANCELLED') AND a.state <> r.state)""",
    ),
    Query(
        "5. each movement that a request id was answered is in the ledger",
        By.REQUEST,
        f"""SELECT a.request_id, a.product_id, a.warehouse_id, a.sequence FROM ({_TOLD_MOVEMENTS}) AS a
        LEFT JOIN movements AS b ON {_SAME_LEVEL} AND a.sequence = b.sequence WHERE b.sequence IS NULL""",
    ),
    Query(
        "5. each product and warehouse that a request id was answered is in the catalogue",
        By.REQUEST,
        f"""SELECT a.request_id, a.product_id, a.warehouse_id FROM ({_TOLD_CATALOGUE}) AS a
        LEFT JOIN products AS p ON p.product_id = a.product_id
        LEFT JOIN warehouses AS w ON w.warehouse_id = a.warehouse_id
        WHERE p.product_id IS NULL AND w.warehouse_id IS NULL""",
    ),
    Query(
        "6. every movement has its event",
        By.PRODUCT,
        f"""SELECT m.product_id, m.warehouse_id, m.sequence, m.event_id FROM movements AS m
        LEFT JOIN outbox AS o ON o.event_id = m.event_id WHERE o.event_id IS NULL AND {_products("m")}""",
    ),
    Query(
        "6. every event about stock has its movement",
        By.HASH,
        f"""SELECT o.event_id, o.type, o.subject FROM outbox AS o
        LEFT JOIN (SELECT DISTINCT event_id FROM movements WHERE {_part("event_id")}) AS m ON m.event_id = o.event_id
        WHERE o.type <> 'warehouse.reservation.extended.v1' AND m.event_id IS NULL AND {_part("o.event_id")}""",
    ),
)
