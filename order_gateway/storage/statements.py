"""The SQL of orders: constant text, JSON documents as values, so that one round trip serves many orders at once.

How, says `service_kit.database.json_table`. Works on MariaDB 10.11+ and MySQL 8.4+.
"""

from service_kit.database.json_table import (
    FREE_ONLY,
    INSTANT,
    JSON,
    NUMBER,
    Columns,
    ascii_text,
    insert,
    join,
    later,
    lockable,
    microseconds,
    row,
    text,
    unpack,
    value,
)

MONEY = "DECIMAL(21, 2)"
"""A digit more than columns of money take, for the same reason as in `text`."""
WORD = ascii_text(36)
CURRENCY = ascii_text(3)
TRACE = ascii_text(64)
LABEL = text(64)
TEXT = text(1000)

BEGIN = "START TRANSACTION"

_ORDER: Columns = (
    ("id", NUMBER),
    ("version", NUMBER),
    ("user_id", LABEL),
    ("status", WORD),
    ("stock", WORD),
    ("payment", WORD),
    ("reason", WORD),
    ("way", WORD),
    ("total_amount", MONEY),
    ("shipping_address", TEXT),
    ("payment_method", LABEL),
    ("payment_reference", TEXT),
    ("payment_deadline", INSTANT),
    ("refusal", JSON),
    ("correlation_id", LABEL),
    ("created_at", INSTANT),
    ("updated_at", INSTANT),
    ("actor", LABEL),
    ("warehouse_changes", NUMBER),
    ("request_key", ascii_text(20)),
    ("currency", CURRENCY),
    ("payment_provider", WORD),
)
_ITEM: Columns = (
    ("order_id", NUMBER),
    ("position", NUMBER),
    ("product_id", NUMBER),
    ("warehouse_id", NUMBER),
    ("quantity", NUMBER),
    ("unit_price", MONEY),
    ("total_price", MONEY),
    ("any_warehouse", NUMBER),
)
_RESERVATION: Columns = (
    ("order_id", NUMBER),
    ("position", NUMBER),
    ("reservation_id", WORD),
    ("product_id", NUMBER),
    ("warehouse_id", NUMBER),
    ("quantity", NUMBER),
    ("expires_at", INSTANT),
    ("created_at", INSTANT),
)
_IDS: Columns = (("id", NUMBER),)
_ORDERS_BY_ID = f"{join('orders')} ON t.id = j.id"

READ_ORDERS = f"SELECT {row(_ORDER)} FROM {lockable('ids', _IDS)} {_ORDERS_BY_ID}"
LOCK_ORDERS = f"{READ_ORDERS} FOR UPDATE"
LOCK_FREE_ORDERS = f"{READ_ORDERS}{FREE_ONLY}"
READ_ORDER_IDS = f"SELECT t.id FROM {unpack('ids', _IDS)} {_ORDERS_BY_ID}"
"""Without locks, right after LOCK_FREE_ORDERS: what is there and was not locked is in somebody else's hands."""
LOCK_VERSIONS = (
    f"SELECT JSON_ARRAYAGG(JSON_ARRAY(t.id, t.version)) FROM {lockable('known_ids', _IDS)} {_ORDERS_BY_ID} FOR UPDATE"
)
"""Of orders that the caller has just read or made: whether they are still as they were."""


def _read_parts(table: str, columns: Columns) -> str:
    """What belongs to the orders, in its order."""
    return (
        f"SELECT {row(columns)} FROM {unpack('ids', _IDS)} "
        f"{join(table)} ON t.order_id = j.id ORDER BY t.order_id, t.position"
    )


READ_ITEMS = _read_parts("items", _ITEM)
READ_RESERVATIONS = _read_parts("reservations", _RESERVATION)
CLOCK = f"SELECT {microseconds('SYSDATE(6)')}"
"""The database's time when it is evaluated, which may be after a wait for a lock; in UTC, as every session is."""

# A new order: known by a token of its creation (the column `placement`) until the database has given it an id.
_TOKEN = ascii_text(32)
_KEY: Columns = (("owner", LABEL), ("idempotency_key", text(128)))
_CLAIMED_KEY: Columns = (*_KEY, ("claim", WORD))
_NEW_ORDER: Columns = (
    ("placement", _TOKEN),
    ("user_id", LABEL),
    ("way", WORD),
    ("total_amount", MONEY),
    ("payment_method", LABEL),
    ("correlation_id", LABEL),
    ("actor", LABEL),
    ("request_key", ascii_text(20)),
    ("currency", CURRENCY),
    *_CLAIMED_KEY,
    # Last, because it is long: the server looks for each value of a row from the row's beginning.
    ("shipping_address", TEXT),
)
_NEW_ITEM: Columns = (("placement", _TOKEN), *_ITEM[1:])
_BEGINNING: Columns = (
    ("placement", _TOKEN),
    ("lease_microseconds", NUMBER),
    ("traceparent", TRACE),
)
_KEY_OF_CREATION: Columns = (("placement", _TOKEN), *_CLAIMED_KEY)
_IS_KEY = "t.owner = j.owner AND t.idempotency_key = j.idempotency_key"
_IS_CLAIMED = f"{_IS_KEY} AND t.claim = j.claim"
_KEY_FOUND = f"{join('idempotency_keys')} ON {_IS_KEY}"
_CLAIM_FOUND = f"{join('idempotency_keys')} ON {_IS_CLAIMED}"
_BY_TOKEN = f"{join('orders', 'orders_placement', 'o')} ON o.placement = j.placement"
_BEGINNINGS = unpack("beginnings", _BEGINNING)

INSERT_ORDERS = f"""
    INSERT INTO orders (placement, user_id, status, stock, payment, way, total_amount, shipping_address,
      payment_method, correlation_id, actor, request_key, currency, payment_deadline, created_at, updated_at)
    SELECT j.placement, j.user_id, 'pending_reservation', 'reserving', 'none', j.way, j.total_amount,
      j.shipping_address, j.payment_method, j.correlation_id, j.actor, j.request_key, j.currency,
      {later("NOW(6)", "%(window_microseconds)s")}, NOW(6), NOW(6)
    FROM {unpack("new_orders", _NEW_ORDER)}
    WHERE j.claim IS NULL OR EXISTS (SELECT * FROM idempotency_keys AS t WHERE {_IS_CLAIMED})"""
"""Not of a request whose Idempotency-Key another one has claimed since; LOCK_KEYS sees to it that it stays so."""
INSERT_ITEMS = f"""
    INSERT INTO items (order_id, position, product_id, warehouse_id, quantity, unit_price, total_price, any_warehouse)
    SELECT o.id, j.position, j.product_id, j.warehouse_id, j.quantity, j.unit_price, j.total_price, j.any_warehouse
    FROM {unpack("new_items", _NEW_ITEM)} {_BY_TOKEN}"""
INSERT_CREATED = f"""
    INSERT INTO history (order_id, version, event, status_after, actor, correlation_id, created_at)
    SELECT o.id, o.version, 'created', o.status, o.actor, o.correlation_id, o.created_at
    FROM {_BEGINNINGS} {_BY_TOKEN}"""
INSERT_RESERVE_STEPS = f"""
    INSERT INTO intents (order_id, step, due_at, traceparent, created_at)
    SELECT o.id, 'reserve', {later("o.created_at", "j.lease_microseconds")}, j.traceparent, o.created_at
    FROM {_BEGINNINGS} {_BY_TOKEN}"""
LOCK_KEYS = f"SELECT COUNT(*) FROM {lockable('keys', _KEY_OF_CREATION)} {_CLAIM_FOUND} FOR UPDATE"
LOCK_FREE_KEYS = (
    f"SELECT t.owner, t.idempotency_key FROM {lockable('keys', _KEY_OF_CREATION)} {_CLAIM_FOUND}{FREE_ONLY}"
)
READ_CLAIMED_KEYS = f"SELECT t.owner, t.idempotency_key FROM {unpack('keys', _KEY_OF_CREATION)} {_CLAIM_FOUND}"
LINK_KEYS = f"UPDATE {unpack('keys', _KEY_OF_CREATION)} {_BY_TOKEN} {_CLAIM_FOUND} SET t.order_id = o.id"
DELETE_KEYS = f"DELETE t FROM {unpack('keys', _KEY)} {_KEY_FOUND}"
_TOKENS: Columns = (("placement", _TOKEN),)
READ_CREATED = f"""
    SELECT JSON_ARRAYAGG(JSON_ARRAY(o.placement, o.id, {microseconds("o.created_at")})) FROM
    {unpack("tokens", _TOKENS)} {_BY_TOKEN}"""
"""In one value, because the driver spends its time per row; only for what is short."""

_CHOSEN: Columns = (("order_id", NUMBER), ("position", NUMBER), ("warehouse_id", NUMBER))
_STEP: Columns = (("order_id", NUMBER), ("step", WORD))
_AT_ORDER: Columns = (("order_id", NUMBER), ("at", INSTANT), ("provider_reference", TEXT))
_PAYMENT_OF_ORDER = f"{join('payments')} ON t.order_id = j.order_id"
_STEP_OF_ORDER = f"{join('intents')} ON t.order_id = j.order_id AND t.step = j.step"
_AT = value("at", INSTANT)


TAKE_STEPS = (
    f"UPDATE {unpack('steps', _STEP)} {_STEP_OF_ORDER} "
    f"SET t.due_at = {later('SYSDATE(6)', '%(lease_microseconds)s')}, t.attempts = t.attempts + 1"
)
"""SYSDATE is when it is evaluated, NOW when its statement began, which may have waited for a lock since."""

_KNOWN_PRODUCT: Columns = (("product_id", NUMBER), ("price", MONEY), ("currency", CURRENCY))
REMEMBER_PRODUCTS = f"""
    REPLACE INTO known_products (product_id, price, currency, seen_at)
    SELECT j.product_id, j.price, j.currency, NOW(6) FROM {unpack("products", _KNOWN_PRODUCT)}"""
RECALL_PRODUCTS = f"""
    SELECT t.product_id, t.price, t.currency
    FROM {unpack("products", _KNOWN_PRODUCT[:1])} {join("known_products")} ON t.product_id = j.product_id"""


def _set(kind: str, columns: Columns) -> str:
    """Change some columns of orders."""
    values = ", ".join(f"t.{name} = {value(name, kind_)}" for name, kind_ in columns)
    return f"UPDATE {unpack(kind, (*_IDS, *columns))} {_ORDERS_BY_ID} SET {values}"


# Column orders are those of the rows that `changing.Changes` collects.
WRITES = {
    "moved": _set(
        "moved",
        (
            ("version", NUMBER),
            ("status", WORD),
            ("stock", WORD),
            ("payment", WORD),
            ("reason", WORD),
            ("way", WORD),
            ("payment_deadline", INSTANT),
            ("updated_at", INSTANT),
        ),
    ),
    "methods": _set("methods", (("payment_method", LABEL), ("payment_reference", TEXT), ("payment_provider", WORD))),
    "refusals": _set("refusals", (("refusal", JSON),)),
    "actors": _set("actors", (("actor", LABEL),)),
    "recounted": _set("recounted", (("warehouse_changes", NUMBER),)),
    "warehouses": (
        f"UPDATE {unpack('warehouses', _CHOSEN)} {join('items')} "
        "ON t.order_id = j.order_id AND t.position = j.position SET t.warehouse_id = j.warehouse_id"
    ),
    "reservations": insert("reservations", "reservations", _RESERVATION),
    "payments": insert(
        "payments",
        "payments",
        (
            ("order_id", NUMBER),
            ("amount", MONEY),
            ("currency", CURRENCY),
            ("provider", WORD),
            ("method", LABEL),
            ("reference", TEXT),
            ("created_at", INSTANT),
        ),
    ),
    "charged": (
        f"UPDATE {unpack('charged', _AT_ORDER)} {_PAYMENT_OF_ORDER} "
        f"SET t.charged_at = {_AT}, t.provider_reference = j.provider_reference"
    ),
    "refunded": f"UPDATE {unpack('refunded', _AT_ORDER[:2])} {_PAYMENT_OF_ORDER} SET t.refunded_at = {_AT}",
    "refunds": insert(
        "refunds",
        "refunds",
        (
            ("order_id", NUMBER),
            ("amount", MONEY),
            ("currency", CURRENCY),
            ("payment_method", LABEL),
            ("payment_reference", TEXT),
            ("reason", WORD),
            ("requested_at", INSTANT),
        ),
    ),
    "confirmed": (
        f"UPDATE {unpack('confirmed', (*_AT_ORDER[:2], ('actor', LABEL), ('reference', TEXT)))} "
        f"{join('refunds')} ON t.order_id = j.order_id "
        f"SET t.confirmed_at = {_AT}, t.confirmed_by = j.actor, t.refund_reference = j.reference"
    ),
    "history": insert(
        "history",
        "history",
        (
            ("order_id", NUMBER),
            ("version", NUMBER),
            ("event", WORD),
            ("status_before", WORD),
            ("status_after", WORD),
            ("note", TEXT),
            ("actor", LABEL),
            ("correlation_id", LABEL),
            ("created_at", INSTANT),
        ),
    ),
    "ended": f"DELETE t FROM {unpack('ended', _STEP)} {_STEP_OF_ORDER}",
    "due": f"UPDATE {unpack('due', (*_STEP, ('at', INSTANT)))} {_STEP_OF_ORDER} SET t.due_at = {_AT}",
    "intents": insert(
        "intents",
        "intents",
        (("order_id", NUMBER), ("step", WORD), ("due_at", INSTANT), ("traceparent", TRACE), ("created_at", INSTANT)),
    ),
}
"""The statement for each kind of changed rows; the parameter has the name of the kind."""
