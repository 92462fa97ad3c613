"""The tables as SQLAlchemy sees them; the DDL is in migrations/warehouse."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Numeric, String, Table

metadata = MetaData()

products = Table(
    "products",
    metadata,
    Column("product_id", BigInteger, primary_key=True),
    Column("sku", String(64)),
    Column("name", String(255)),
    Column("description", String(4000)),
    Column("list_price", Numeric(12, 2)),
    Column("currency", String(3)),
    Column("created_at", DateTime),
    Column("updated_at", DateTime),
)

warehouses = Table(
    "warehouses",
    metadata,
    Column("warehouse_id", BigInteger, primary_key=True),
    Column("code", String(64)),
    Column("name", String(255)),
    Column("priority", Integer),
    Column("created_at", DateTime),
    Column("updated_at", DateTime),
)

stock_levels = Table(
    "stock_levels",
    metadata,
    Column("product_id", BigInteger, primary_key=True),
    Column("warehouse_id", BigInteger, primary_key=True),
    Column("on_hand", BigInteger),
    Column("reserved", BigInteger),
    Column("version", BigInteger),
    Column("created_at", DateTime),
    Column("updated_at", DateTime),
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", String(36), primary_key=True),
    Column("order_id", String(64)),
    Column("order_sequence", Integer),
    Column("state", String(16)),
    Column("expires_at", DateTime),
    Column("created_at", DateTime),
    Column("closed_at", DateTime),
    Column("reason", String(255)),
    Column("correlation_id", String(64)),
)

reservation_lines = Table(
    "reservation_lines",
    metadata,
    Column("reservation_id", String(36), primary_key=True),
    Column("product_id", BigInteger, primary_key=True),
    Column("warehouse_id", BigInteger, primary_key=True),
    Column("quantity", BigInteger),
    Column("requested_quantity", BigInteger),
    Column("committed_quantity", BigInteger),
)

movements = Table(
    "movements",
    metadata,
    Column("product_id", BigInteger, primary_key=True),
    Column("warehouse_id", BigInteger, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("type", String(16)),
    Column("quantity", BigInteger),
    Column("on_hand_before", BigInteger),
    Column("on_hand_after", BigInteger),
    Column("reserved_before", BigInteger),
    Column("reserved_after", BigInteger),
    Column("reference", String(64)),
    Column("notes", String(255)),
    Column("actor", String(64)),
    Column("correlation_id", String(64)),
    Column("event_id", String(36)),
    Column("created_at", DateTime),
)

request_ids = Table(
    "request_ids",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("fingerprint", String(16)),
    Column("answer", String),
    Column("created_at", DateTime),
)
