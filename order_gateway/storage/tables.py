"""Table definitions for queries, nothing else; the DDL is in migrations/orders."""

from sqlalchemy import JSON, BigInteger, Column, Integer, MetaData, Numeric, String, Table, Text
from sqlalchemy.dialects.mysql import DATETIME

metadata = MetaData()
_INSTANT = DATETIME(fsp=6)

installation = Table("installation", metadata, Column("id", Integer, primary_key=True), Column("token", String(8)))

orders = Table(
    "orders",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("version", Integer),
    Column("user_id", String(64)),
    Column("status", String(24)),
    Column("stock", String(16)),
    Column("payment", String(16)),
    Column("reason", String(24)),
    Column("way", String(8)),
    Column("total_amount", Numeric(20, 2)),
    Column("shipping_address", String(1000)),
    Column("payment_method", String(64)),
    Column("payment_reference", String(128)),
    Column("payment_deadline", _INSTANT),
    Column("refusal", JSON(none_as_null=True)),
    Column("correlation_id", String(64)),
    Column("placement", String(32)),
    Column("created_at", _INSTANT),
    Column("updated_at", _INSTANT),
    Column("actor", String(64)),
    Column("warehouse_changes", Integer),
    Column("request_key", String(20)),
    Column("currency", String(3)),
    Column("payment_provider", String(16)),
)

reservations = Table(
    "reservations",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("reservation_id", String(36)),
    Column("product_id", BigInteger),
    Column("warehouse_id", BigInteger),
    Column("quantity", Integer),
    Column("expires_at", _INSTANT),
    Column("created_at", _INSTANT),
)

refunds = Table(
    "refunds",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("amount", Numeric(20, 2)),
    Column("currency", String(3)),
    Column("payment_method", String(64)),
    Column("payment_reference", String(128)),
    Column("reason", String(24)),
    Column("requested_at", _INSTANT),
    Column("confirmed_at", _INSTANT),
    Column("confirmed_by", String(64)),
    Column("refund_reference", String(128)),
)

history = Table(
    "history",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("event", String(32)),
    Column("status_before", String(24)),
    Column("status_after", String(24)),
    Column("note", String(255)),
    Column("actor", String(64)),
    Column("correlation_id", String(64)),
    Column("created_at", _INSTANT),
)

intents = Table(
    "intents",
    metadata,
    Column("order_id", BigInteger, primary_key=True),
    Column("step", String(16), primary_key=True),
    Column("due_at", _INSTANT),
    Column("attempts", Integer),
    Column("last_error", String(500)),
    Column("traceparent", String(64)),
    Column("created_at", _INSTANT),
    Column("parked_at", _INSTANT),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("idempotency_key", String(128), primary_key=True),
    Column("request_hash", String(64)),
    Column("claim", String(32)),
    Column("claimed_until", _INSTANT),
    Column("order_id", BigInteger),
    Column("status", Integer),
    Column("location", String(255)),
    Column("body", Text),
    Column("created_at", _INSTANT),
)
