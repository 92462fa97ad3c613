"""Lists of orders by date look their orders up, however many others there are."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("ALTER TABLE orders ADD INDEX orders_age (created_at)")


def downgrade() -> None:
    """Drop the index."""
    op.execute("ALTER TABLE orders DROP INDEX orders_age")
