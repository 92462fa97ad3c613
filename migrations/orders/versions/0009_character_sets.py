"""Every text column is utf8mb4, also where the database was made with another character set.

Until here the columns without a word about it took that of the database, so that with latin1 or utf8mb3 an address
with an emoji could not be stored, and an order could not be cancelled with such a reason.
"""

from alembic import op

from service_kit.database.character_sets import convert

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Convert what is not utf8mb4; texts stay the same."""
    convert(op.get_bind())


def downgrade() -> None:
    """Nothing: what the columns held before, they hold now."""
