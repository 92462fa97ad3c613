"""Events carry the W3C trace context of the call that caused them.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty for events without a trace."""
    op.execute(
        "ALTER TABLE outbox"
        " ADD COLUMN traceparent VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''"
    )


def downgrade() -> None:
    """Drop the column."""
    op.execute("ALTER TABLE outbox DROP COLUMN traceparent")
