"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Hand-written DDL that MariaDB 10.11 and MySQL 8.4 both understand."""
    op.execute("""
    """)


def downgrade() -> None:
    """Undo it."""
    op.execute("""
    """)
