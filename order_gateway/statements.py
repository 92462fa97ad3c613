"""The SQL of orders: constant text, JSON documents as values, so that one round trip serves many orders at once.

The server unpacks each document with JSON_TABLE; joining *from* it (STRAIGHT_JOIN) fixes the order in which rows
are locked. Works on MariaDB 10.11+ and MySQL 8.4+.
"""

_ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
_BINARY = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
NUMBER = "BIGINT"
INSTANT = "INSTANT"
"""A BIGINT of microseconds since 1970 in JSON, a DATETIME(6) in the table."""
MONEY = "DECIMAL(20, 2)"
WORD = f"VARCHAR(36) {_ASCII}"
TRACE = f"VARCHAR(64) {_ASCII}"
LABEL = f"VARCHAR(65) {_BINARY}"
"""One more than columns of labels take: MariaDB's JSON_TABLE cuts what is too long, silently, INSERT refuses it."""
TEXT = f"VARCHAR(1000) {_BINARY}"
DOCUMENT = f"MEDIUMTEXT {_BINARY}"

Columns = tuple[tuple[str, str], ...]

BEGIN = "START TRANSACTION"
COMMIT = "COMMIT"


def unpack(parameter: str, columns: Columns, alias: str = "j") -> str:
    """The rows of the JSON array of arrays bound to `parameter`, as a table `alias`; columns are (name, type)."""
    paths = ", ".join(
        f"{name} {NUMBER if kind == INSTANT else kind} PATH '$[{position}]'"
        for position, (name, kind) in enumerate(columns)
    )
    return f"JSON_TABLE(%({parameter})s, '$[*]' COLUMNS ({paths})) AS {alias}"


def _microseconds(column: str) -> str:
    return f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column})"


def _later(instant: str, microseconds: str) -> str:
    return f"TIMESTAMPADD(MICROSECOND, {microseconds}, {instant})"


def _value(name: str, kind: str) -> str:
    return _later("'1970-01-01'", f"j.{name}") if kind == INSTANT else f"j.{name}"


def _insert(table: str, columns: Columns) -> str:
    names = ", ".join(name for name, _ in columns)
    values = ", ".join(_value(name, kind) for name, kind in columns)
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM {unpack(table, columns)}"


def _row(alias: str, columns: Columns) -> str:
    """A row as one JSON array: the driver spends its time per column."""
    values = (
        _microseconds(f"{alias}.{name}")
        if kind == INSTANT
        else f"CAST({alias}.{name} AS CHAR)"
        if kind == DOCUMENT
        else f"{alias}.{name}"
        for name, kind in columns
    )
    return f"JSON_ARRAY({', '.join(values)})"


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
    ("refusal", DOCUMENT),
    ("correlation_id", LABEL),
    ("created_at", INSTANT),
    ("updated_at", INSTANT),
    ("actor", LABEL),
    ("warehouse_changes", NUMBER),
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
# MySQL takes a bare JSON_TABLE for a table to lock, and refuses.
_LOCKABLE_IDS = f"(SELECT id FROM {unpack('ids', _IDS, 'u')}) AS j"
_ORDERS_BY_ID = "STRAIGHT_JOIN orders AS t FORCE INDEX (PRIMARY) ON t.id = j.id"

READ_ORDERS = f"SELECT {_row('t', _ORDER)} FROM {_LOCKABLE_IDS} {_ORDERS_BY_ID}"
LOCK_ORDERS = f"{READ_ORDERS} FOR UPDATE"
_LOCKABLE_KNOWN_IDS = f"(SELECT id FROM {unpack('known_ids', _IDS, 'u')}) AS j"
LOCK_VERSIONS = (
    f"SELECT JSON_ARRAYAGG(JSON_ARRAY(t.id, t.version)) FROM {_LOCKABLE_KNOWN_IDS} {_ORDERS_BY_ID} FOR UPDATE"
)
"""Of orders that the caller has just read or made: whether they are still as they were."""


def _read_parts(table: str, columns: Columns) -> str:
    """What belongs to the orders, in its order."""
    return (
        f"SELECT {_row('t', columns)} FROM {unpack('ids', _IDS)} "
        f"STRAIGHT_JOIN {table} AS t FORCE INDEX (PRIMARY) ON t.order_id = j.id ORDER BY t.order_id, t.position"
    )


READ_ITEMS = _read_parts("items", _ITEM)
READ_RESERVATIONS = _read_parts("reservations", _RESERVATION)
CLOCK = f"SELECT {_microseconds('SYSDATE(6)')}"
"""The database's time when it is evaluated, which may be after a wait for a lock."""

# A new order: known by its placement until the database has given it an id.
_PLACEMENT = f"CHAR(32) {_ASCII}"
_KEY: Columns = (("owner", LABEL), ("idempotency_key", f"VARCHAR(128) {_BINARY}"), ("claim", WORD))
_NEW_ORDER: Columns = (
    ("placement", _PLACEMENT),
    ("user_id", LABEL),
    ("way", WORD),
    ("total_amount", MONEY),
    ("shipping_address", TEXT),
    ("payment_method", LABEL),
    ("correlation_id", LABEL),
    ("actor", LABEL),
    *_KEY,
)
_NEW_ITEM: Columns = (("placement", _PLACEMENT), *_ITEM[1:])
_BEGINNING: Columns = (
    ("placement", _PLACEMENT),
    ("lease_microseconds", NUMBER),
    ("traceparent", TRACE),
)
_KEY_OF_PLACEMENT: Columns = (("placement", _PLACEMENT), *_KEY)
_CLAIMED = "t.owner = j.owner AND t.idempotency_key = j.idempotency_key AND t.claim = j.claim"
_PLACED = "STRAIGHT_JOIN orders AS o FORCE INDEX (orders_placement) ON o.placement = j.placement"
_BEGINNINGS = unpack("beginnings", _BEGINNING)

INSERT_ORDERS = f"""
    INSERT INTO orders (placement, user_id, status, stock, payment, way, total_amount, shipping_address,
      payment_method, correlation_id, actor, payment_deadline, created_at, updated_at)
    SELECT j.placement, j.user_id, 'pending_reservation', 'reserving', 'none', j.way, j.total_amount,
      j.shipping_address, j.payment_method, j.correlation_id, j.actor,
      {_later("NOW(6)", "%(window_microseconds)s")}, NOW(6), NOW(6)
    FROM {unpack("new_orders", _NEW_ORDER)}
    WHERE j.claim IS NULL OR EXISTS (SELECT * FROM idempotency_keys AS t WHERE {_CLAIMED})"""
"""Not of a request whose Idempotency-Key another one has claimed since; LOCK_KEYS sees to it that it stays so."""
INSERT_ITEMS = f"""
    INSERT INTO items (order_id, position, product_id, warehouse_id, quantity, unit_price, total_price, any_warehouse)
    SELECT o.id, j.position, j.product_id, j.warehouse_id, j.quantity, j.unit_price, j.total_price, j.any_warehouse
    FROM {unpack("new_items", _NEW_ITEM)} {_PLACED}"""
INSERT_CREATED = f"""
    INSERT INTO history (order_id, version, event, status_after, actor, correlation_id, created_at)
    SELECT o.id, o.version, 'created', o.status, o.actor, o.correlation_id, o.created_at FROM {_BEGINNINGS} {_PLACED}"""
INSERT_RESERVE_STEPS = f"""
    INSERT INTO intents (order_id, step, due_at, traceparent, created_at)
    SELECT o.id, 'reserve', {_later("o.created_at", "j.lease_microseconds")}, j.traceparent, o.created_at
    FROM {_BEGINNINGS} {_PLACED}"""
_KEYS = f"STRAIGHT_JOIN idempotency_keys AS t FORCE INDEX (PRIMARY) ON {_CLAIMED}"
LOCK_KEYS = f"""
    SELECT COUNT(*) FROM (SELECT owner, idempotency_key, claim FROM {unpack("keys", _KEY_OF_PLACEMENT, "u")}) AS j
    {_KEYS} FOR UPDATE"""
LINK_KEYS = f"UPDATE {unpack('keys', _KEY_OF_PLACEMENT)} {_PLACED} {_KEYS} SET t.order_id = o.id"
_PLACEMENTS: Columns = (("placement", _PLACEMENT),)
READ_PLACED = f"""
    SELECT JSON_ARRAYAGG(JSON_ARRAY(o.placement, o.id, {_microseconds("o.created_at")})) FROM
    {unpack("placements", _PLACEMENTS)} {_PLACED}"""
"""In one value, because the driver spends its time per row; only for what is short."""

_PLACE: Columns = (("order_id", NUMBER), ("position", NUMBER), ("warehouse_id", NUMBER))
_STEP: Columns = (("order_id", NUMBER), ("step", WORD))
_AT_ORDER: Columns = (("order_id", NUMBER), ("at", INSTANT), ("provider_reference", TEXT))
_PAYMENT_OF_ORDER = "STRAIGHT_JOIN payments AS t FORCE INDEX (PRIMARY) ON t.order_id = j.order_id"
_STEP_OF_ORDER = "STRAIGHT_JOIN intents AS t FORCE INDEX (PRIMARY) ON t.order_id = j.order_id AND t.step = j.step"
_AT = _value("at", INSTANT)


def _set(kind: str, columns: Columns) -> str:
    """Change some columns of orders."""
    values = ", ".join(f"t.{name} = {_value(name, kind_)}" for name, kind_ in columns)
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
    "methods": _set("methods", (("payment_method", LABEL), ("payment_reference", TEXT))),
    "refusals": _set("refusals", (("refusal", DOCUMENT),)),
    "actors": _set("actors", (("actor", LABEL),)),
    "recounted": _set("recounted", (("warehouse_changes", NUMBER),)),
    "placed": (
        f"UPDATE {unpack('placed', _PLACE)} STRAIGHT_JOIN items AS t FORCE INDEX (PRIMARY) "
        "ON t.order_id = j.order_id AND t.position = j.position SET t.warehouse_id = j.warehouse_id"
    ),
    "reservations": _insert("reservations", _RESERVATION),
    "payments": _insert(
        "payments",
        (("order_id", NUMBER), ("amount", MONEY), ("method", LABEL), ("reference", TEXT), ("created_at", INSTANT)),
    ),
    "charged": (
        f"UPDATE {unpack('charged', _AT_ORDER)} {_PAYMENT_OF_ORDER} "
        f"SET t.charged_at = {_AT}, t.provider_reference = j.provider_reference"
    ),
    "refunded": f"UPDATE {unpack('refunded', _AT_ORDER[:2])} {_PAYMENT_OF_ORDER} SET t.refunded_at = {_AT}",
    "history": _insert(
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
    "intents": _insert(
        "intents",
        (("order_id", NUMBER), ("step", WORD), ("due_at", INSTANT), ("traceparent", TRACE), ("created_at", INSTANT)),
    ),
}
"""The statement for each kind of changed rows; the parameter has the name of the kind."""
