"""Every text column is utf8mb4, also what was made or changed by others.

The tables say so themselves from the beginning; not so the one of Alembic, nor what is added to them by hand.
"""

from alembic import op

from service_kit.database.character_sets import convert

revision = "0005"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Convert what is not utf8mb4; texts stay the same."""
    convert(op.get_bind())


def downgrade() -> None:
    """Nothing: what the columns held before, they hold now."""
