"""Every order has a random key of its own, of which its request ids towards warehouse and payment provider are made.

A number may be given out twice: after the database was restored from a backup, or moved to a replica that lagged. What
was asked for under the number alone would then be answered with what the first order of that number got.

Orders that exist already keep an empty key, which means: under the number alone. What is still open for them goes on
under the request ids it was sent with.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute(
        "ALTER TABLE orders"
        " ADD COLUMN request_key VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''"
    )


def downgrade() -> None:
    """Drop the column. Orders with an open step are then asked for under another key: end them first."""
    op.execute("ALTER TABLE orders DROP COLUMN request_key")
