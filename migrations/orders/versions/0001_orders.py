"""Orders, their lines and holds, what was done to them, and what remains to be done outside.

No foreign keys: rows of an order are only ever written under the lock of its `orders` row, and a
database that is split over several servers can't check them.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # Its token makes the request ids of this database's orders different from those of one that was dropped.
    """
    CREATE TABLE installation (
      id TINYINT NOT NULL PRIMARY KEY,
      token CHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
      CONSTRAINT installation_is_one CHECK (id = 1)
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE orders (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      user_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
      status VARCHAR(24) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      stock VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      payment VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      reason VARCHAR(24) CHARACTER SET ascii COLLATE ascii_bin NULL,
      way VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      total_amount DECIMAL(20, 2) NOT NULL,
      shipping_address VARCHAR(1000) NOT NULL,
      payment_method VARCHAR(64) NOT NULL,
      payment_reference VARCHAR(128) NULL,
      payment_deadline DATETIME(6) NOT NULL,
      refusal JSON NULL,
      correlation_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
      placement CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      created_at DATETIME(6) NOT NULL,
      updated_at DATETIME(6) NOT NULL,
      UNIQUE KEY orders_placement (placement),
      KEY orders_of_user (user_id, id),
      KEY orders_unpaid (status, payment, payment_deadline),
      CONSTRAINT orders_total CHECK (total_amount >= 0),
      CONSTRAINT orders_reason CHECK ((status = 'cancelled') = (reason IS NOT NULL)),
      CONSTRAINT orders_state CHECK (
        (status = 'pending_reservation' AND stock = 'reserving' AND payment = 'none')
        OR (status = 'rejected' AND stock = 'free' AND payment = 'none')
        OR (status = 'pending' AND stock = 'held' AND payment IN ('none', 'charging'))
        OR (status = 'paid' AND stock IN ('committing', 'committed') AND payment = 'charged')
        OR (status IN ('shipped', 'completed') AND stock = 'committed' AND payment = 'charged')
        OR (status = 'cancelled' AND stock IN ('releasing', 'free', 'committing', 'returning', 'returned')
            AND payment IN ('none', 'declined', 'refunding', 'refunded'))
      )
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE items (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      order_id BIGINT NOT NULL,
      product_id BIGINT NOT NULL,
      warehouse_id BIGINT NOT NULL,
      quantity INT NOT NULL,
      unit_price DECIMAL(12, 2) NOT NULL,
      total_price DECIMAL(20, 2) NOT NULL,
      KEY items_of_order (order_id),
      CONSTRAINT items_quantity CHECK (quantity BETWEEN 1 AND 1000000),
      CONSTRAINT items_price CHECK (unit_price >= 0 AND total_price = unit_price * quantity)
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE reservations (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      order_id BIGINT NOT NULL,
      reservation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      product_id BIGINT NOT NULL,
      warehouse_id BIGINT NOT NULL,
      quantity INT NOT NULL,
      expires_at DATETIME(6) NOT NULL,
      created_at DATETIME(6) NOT NULL,
      KEY reservations_of_order (order_id),
      KEY reservations_by_id (reservation_id),
      CONSTRAINT reservations_quantity CHECK (quantity > 0)
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE payments (
      order_id BIGINT NOT NULL PRIMARY KEY,
      amount DECIMAL(20, 2) NOT NULL,
      method VARCHAR(64) NOT NULL,
      reference VARCHAR(128) NULL,
      provider_reference VARCHAR(128) NULL,
      created_at DATETIME(6) NOT NULL,
      charged_at DATETIME(6) NULL,
      refunded_at DATETIME(6) NULL,
      CONSTRAINT payments_amount CHECK (amount >= 0)
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE history (
      id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
      order_id BIGINT NOT NULL,
      event VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      status_before VARCHAR(24) CHARACTER SET ascii COLLATE ascii_bin NULL,
      status_after VARCHAR(24) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      note VARCHAR(255) NULL,
      actor VARCHAR(64) NOT NULL,
      correlation_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
      created_at DATETIME(6) NOT NULL,
      KEY history_of_order (order_id, id)
    ) ENGINE=InnoDB
    """,
    # due_at is NULL once a step is done, so that its index holds only what remains to be done.
    """
    CREATE TABLE intents (
      order_id BIGINT NOT NULL,
      step VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      due_at DATETIME(6) NULL,
      attempts INT NOT NULL DEFAULT 0,
      last_error VARCHAR(500) NULL,
      traceparent VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
      created_at DATETIME(6) NOT NULL,
      done_at DATETIME(6) NULL,
      PRIMARY KEY (order_id, step),
      KEY intents_due (due_at),
      CONSTRAINT intents_open_or_done CHECK ((due_at IS NULL) = (done_at IS NOT NULL))
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE idempotency_keys (
      owner VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
      idempotency_key VARCHAR(128) COLLATE utf8mb4_bin NOT NULL,
      request_hash CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      claim CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      claimed_until DATETIME(6) NOT NULL,
      order_id BIGINT NULL,
      status SMALLINT NULL,
      location VARCHAR(255) NULL,
      body MEDIUMTEXT NULL,
      created_at DATETIME(6) NOT NULL,
      PRIMARY KEY (owner, idempotency_key),
      KEY idempotency_keys_age (created_at)
    ) ENGINE=InnoDB
    """,
)


def upgrade() -> None:
    """Create the tables."""
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    for name in ("idempotency_keys", "intents", "history", "payments", "reservations", "items", "orders"):
        op.execute(f"DROP TABLE {name}")
    op.execute("DROP TABLE installation")
