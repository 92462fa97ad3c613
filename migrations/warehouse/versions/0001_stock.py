"""Products, warehouses, stock levels, reservations, the ledger, request ids and the outbox.

What is worth knowing about the shapes:

* Nothing on the write path has an AUTO_INCREMENT key: ids of reservations and events are UUIDv7 made from
  the database's clock after the locks are taken, a movement's key is its position in its level's ledger.
* `reservations` is unique in (order_id, order_sequence). Two servers that meet a new order at the same
  moment collide there, and the loser starts over with the winner's row in sight; that is how a tombstone
  (a CANCELLED reservation without lines) fences a late Reserve without a lock of its own.
* Opaque ids compare byte by byte (utf8mb4_bin, ascii_bin); white space at their ends is refused at the door,
  because these collations would ignore it.
* Foreign keys guard the catalogue. On the write path the rows are made together in one transaction, and the
  audit checks them.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OPAQUE_ID = "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
UUID = "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin"
WORD = "VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin"
TABLE = "ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

CREATE = (
    f"""
    CREATE TABLE products (
        product_id BIGINT NOT NULL AUTO_INCREMENT,
        sku {OPAQUE_ID} NOT NULL,
        name VARCHAR(255) NOT NULL,
        description VARCHAR(4000) NOT NULL DEFAULT '',
        list_price DECIMAL(12, 2) NULL,
        currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NULL,
        created_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL,
        PRIMARY KEY (product_id),
        UNIQUE KEY products_sku (sku),
        CONSTRAINT products_price_not_negative CHECK (list_price >= 0),
        CONSTRAINT products_price_has_currency CHECK ((list_price IS NULL) = (currency IS NULL))
    ) {TABLE}
    """,
    f"""
    CREATE TABLE warehouses (
        warehouse_id BIGINT NOT NULL AUTO_INCREMENT,
        code {OPAQUE_ID} NOT NULL,
        name VARCHAR(255) NOT NULL,
        priority INT NOT NULL DEFAULT 0,
        created_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL,
        PRIMARY KEY (warehouse_id),
        UNIQUE KEY warehouses_code (code)
    ) {TABLE}
    """,
    f"""
    CREATE TABLE stock_levels (
        product_id BIGINT NOT NULL,
        warehouse_id BIGINT NOT NULL,
        on_hand BIGINT NOT NULL,
        reserved BIGINT NOT NULL,
        version BIGINT NOT NULL,
        created_at DATETIME(6) NOT NULL,
        updated_at DATETIME(6) NOT NULL,
        PRIMARY KEY (product_id, warehouse_id),
        CONSTRAINT stock_levels_product FOREIGN KEY (product_id) REFERENCES products (product_id),
        CONSTRAINT stock_levels_warehouse FOREIGN KEY (warehouse_id) REFERENCES warehouses (warehouse_id),
        CONSTRAINT stock_levels_ids_positive CHECK (product_id > 0 AND warehouse_id > 0),
        CONSTRAINT stock_levels_reserved_not_negative CHECK (reserved >= 0),
        CONSTRAINT stock_levels_never_oversold CHECK (reserved <= on_hand)
    ) {TABLE}
    """,
    f"""
    CREATE TABLE reservations (
        reservation_id {UUID} NOT NULL,
        order_id {OPAQUE_ID} NOT NULL,
        order_sequence INT NOT NULL,
        state {WORD} NOT NULL,
        expires_at DATETIME(6) NOT NULL,
        created_at DATETIME(6) NOT NULL,
        closed_at DATETIME(6) NULL,
        reason VARCHAR(255) NOT NULL DEFAULT '',
        correlation_id {OPAQUE_ID} NOT NULL DEFAULT '',
        PRIMARY KEY (reservation_id),
        UNIQUE KEY reservations_order (order_id, order_sequence),
        KEY reservations_state_expiry (state, expires_at),
        CONSTRAINT reservations_state CHECK (state IN ('RESERVED', 'COMMITTED', 'CANCELLED', 'EXPIRED')),
        CONSTRAINT reservations_closed CHECK ((state = 'RESERVED') = (closed_at IS NULL))
    ) {TABLE}
    """,
    f"""
    CREATE TABLE reservation_lines (
        reservation_id {UUID} NOT NULL,
        product_id BIGINT NOT NULL,
        warehouse_id BIGINT NOT NULL,
        quantity BIGINT NOT NULL,
        requested_quantity BIGINT NOT NULL,
        committed_quantity BIGINT NOT NULL,
        PRIMARY KEY (reservation_id, product_id, warehouse_id),
        KEY reservation_lines_product (product_id, reservation_id),
        CONSTRAINT reservation_lines_quantity CHECK (quantity > 0 AND quantity <= requested_quantity),
        CONSTRAINT reservation_lines_committed CHECK (committed_quantity >= 0 AND committed_quantity <= quantity)
    ) {TABLE}
    """,
    f"""
    CREATE TABLE movements (
        product_id BIGINT NOT NULL,
        warehouse_id BIGINT NOT NULL,
        sequence BIGINT NOT NULL,
        type {WORD} NOT NULL,
        quantity BIGINT NOT NULL,
        on_hand_before BIGINT NOT NULL,
        on_hand_after BIGINT NOT NULL,
        reserved_before BIGINT NOT NULL,
        reserved_after BIGINT NOT NULL,
        reference {OPAQUE_ID} NOT NULL DEFAULT '',
        notes VARCHAR(255) NOT NULL DEFAULT '',
        actor VARCHAR(64) NOT NULL,
        correlation_id {OPAQUE_ID} NOT NULL DEFAULT '',
        event_id {UUID} NOT NULL,
        created_at DATETIME(6) NOT NULL,
        PRIMARY KEY (product_id, warehouse_id, sequence),
        CONSTRAINT movements_type CHECK (type IN (
            'STOCK_IN', 'STOCK_OUT', 'RESERVED', 'COMMITTED', 'RELEASED', 'EXPIRED', 'ADJUSTMENT', 'DAMAGED',
            'RETURNED', 'TRANSFER_OUT', 'TRANSFER_IN')),
        CONSTRAINT movements_never_oversold CHECK (reserved_after >= 0 AND reserved_after <= on_hand_after)
    ) {TABLE}
    """,
    f"""
    CREATE TABLE request_ids (
        request_id {OPAQUE_ID} NOT NULL,
        fingerprint BINARY(16) NOT NULL,
        answer MEDIUMTEXT NOT NULL,
        created_at DATETIME(6) NOT NULL,
        PRIMARY KEY (request_id)
    ) {TABLE}
    """,
    f"""
    CREATE TABLE outbox (
        event_id {UUID} NOT NULL,
        type VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        subject {OPAQUE_ID} NOT NULL,
        data MEDIUMTEXT NOT NULL,
        correlation_id {OPAQUE_ID} NOT NULL DEFAULT '',
        created_at DATETIME(6) NOT NULL,
        PRIMARY KEY (event_id)
    ) {TABLE}
    """,
)

TABLES = (
    "outbox",
    "request_ids",
    "movements",
    "reservation_lines",
    "reservations",
    "stock_levels",
    "warehouses",
    "products",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables, and everything in them."""
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
