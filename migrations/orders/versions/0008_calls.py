"""Steps that keep failing are parked; one process at a time reads the warehouse's catalogue for all."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = (
    "ALTER TABLE intents ADD COLUMN parked_at DATETIME(6) NULL, ADD INDEX intents_parked (parked_at)",
    """
    CREATE TABLE catalogue_reading (
      id TINYINT NOT NULL PRIMARY KEY,
      reader VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      due_at DATETIME(6) NOT NULL,
      changed_since DATETIME(6) NULL,
      all_due_at DATETIME(6) NULL,
      CONSTRAINT catalogue_reading_is_one CHECK (id = 1)
    ) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4
    """,
)
DOWNGRADE = (
    "DROP TABLE catalogue_reading",
    "ALTER TABLE intents DROP INDEX intents_parked, DROP COLUMN parked_at",
)


def upgrade() -> None:
    """Add the column and the table."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    for statement in DOWNGRADE:
        op.execute(statement)
