"""Money has a currency, a payment knows who took it, and refunds that somebody else makes are asked for and confirmed.

Orders made before get the currency of their products as last known, otherwise ORDERS_CURRENCY_DEFAULT (USD). It stays
the column's default, so that processes of the version before can go on while this one is rolled out.
"""

import os
import re

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_CODE = "CHAR(3) CHARACTER SET ascii COLLATE ascii_bin"
_NAME = "VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def _states(cancelled: str) -> str:
    """The constraint on what goes together; `cancelled`: what the payment of a cancelled order may be."""
    return f"""
    ALTER TABLE orders ADD CONSTRAINT orders_state CHECK (
      (status = 'pending_reservation' AND stock = 'reserving' AND payment = 'none')
      OR (status = 'rejected' AND stock IN ('free', 'releasing') AND payment = 'none')
      OR (status = 'pending' AND stock = 'held' AND payment IN ('none', 'charging'))
      OR (status = 'paid' AND stock IN ('committing', 'committed') AND payment = 'charged')
      OR (status IN ('shipped', 'completed') AND stock = 'committed' AND payment = 'charged')
      OR (status = 'cancelled' AND stock IN ('releasing', 'free', 'committing', 'returning', 'returned')
          AND payment IN ({cancelled}))
    )
    """


def _up(currency: str) -> tuple[str, ...]:
    return (
        f"""
        ALTER TABLE orders
          ADD COLUMN currency {_CODE} NOT NULL DEFAULT '{currency}',
          ADD COLUMN payment_provider {_NAME} NULL
        """,
        f"""
        ALTER TABLE payments
          ADD COLUMN currency {_CODE} NOT NULL DEFAULT '{currency}' AFTER amount,
          ADD COLUMN provider {_NAME} NOT NULL DEFAULT 'simulator' AFTER currency
        """,
        """
        UPDATE orders AS o
        JOIN (
          SELECT i.order_id, MIN(k.currency) AS currency FROM items AS i
          JOIN known_products AS k ON k.product_id = i.product_id AND k.currency <> ''
          GROUP BY i.order_id
        ) AS priced ON priced.order_id = o.id
        SET o.currency = priced.currency
        """,
        "UPDATE payments AS p JOIN orders AS o ON o.id = p.order_id SET p.currency = o.currency",
        # There was no other.
        "UPDATE orders SET payment_provider = 'simulator' WHERE payment <> 'none'",
        "ALTER TABLE orders DROP CONSTRAINT orders_state",
        _states("'none', 'declined', 'refunding', 'refund_requested', 'refunded'"),
        f"""
        CREATE TABLE refunds (
          order_id BIGINT NOT NULL PRIMARY KEY,
          amount DECIMAL(20, 2) NOT NULL,
          currency {_CODE} NOT NULL,
          payment_method VARCHAR(64) {_TEXT} NOT NULL,
          payment_reference VARCHAR(128) {_TEXT} NULL,
          reason VARCHAR(24) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
          requested_at DATETIME(6) NOT NULL,
          confirmed_at DATETIME(6) NULL,
          confirmed_by VARCHAR(64) {_TEXT} NULL,
          refund_reference VARCHAR(128) {_TEXT} NULL,
          KEY refunds_by_confirmation (confirmed_at, requested_at),
          KEY refunds_by_request (requested_at),
          CONSTRAINT refunds_amount CHECK (amount >= 0),
          CONSTRAINT refunds_confirmation CHECK ((confirmed_at IS NULL) = (confirmed_by IS NULL))
        ) ENGINE=InnoDB
        """,
        f"""
        CREATE TABLE payment_callbacks (
          message_id VARCHAR(128) {_TEXT} NOT NULL PRIMARY KEY,
          order_id BIGINT NULL,
          received_at DATETIME(6) NOT NULL,
          KEY payment_callbacks_age (received_at)
        ) ENGINE=InnoDB
        """,
    )


DOWN = (
    "DROP TABLE payment_callbacks",
    "DROP TABLE refunds",
    "ALTER TABLE orders DROP CONSTRAINT orders_state",
    "UPDATE orders SET payment = 'refunded' WHERE payment = 'refund_requested'",
    _states("'none', 'declined', 'refunding', 'refunded'"),
    "ALTER TABLE payments DROP COLUMN currency, DROP COLUMN provider",
    "ALTER TABLE orders DROP COLUMN currency, DROP COLUMN payment_provider",
)


def upgrade() -> None:
    """Change the tables."""
    currency = os.environ.get("ORDERS_CURRENCY_DEFAULT", "USD")
    if not re.fullmatch("[A-Z]{3}", currency):
        raise ValueError(f"ORDERS_CURRENCY_DEFAULT is {currency!r}: set it to an ISO 4217 code, like EUR")
    for statement in _up(currency):
        op.execute(statement)


def downgrade() -> None:
    """Change them back."""
    for statement in DOWN:
        op.execute(statement)
