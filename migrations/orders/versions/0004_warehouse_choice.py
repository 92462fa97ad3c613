"""Whether a line's warehouse is the customer's wish or ours to choose, and that it may not be chosen yet.

Beside it the actor on whose behalf an order's steps are done, so that the warehouse's ledger can name them.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = (
    """
    ALTER TABLE items
      MODIFY warehouse_id BIGINT NULL,
      ADD COLUMN any_warehouse TINYINT NOT NULL DEFAULT 0,
      ADD CONSTRAINT items_warehouse CHECK (any_warehouse IN (0, 1) AND (warehouse_id IS NOT NULL OR any_warehouse = 1))
    """,
    """
    ALTER TABLE orders
      ADD COLUMN warehouse_changes INT NOT NULL DEFAULT 0,
      ADD COLUMN actor VARCHAR(64) NOT NULL DEFAULT 'system',
      ADD CONSTRAINT orders_warehouse_changes CHECK (warehouse_changes >= 0)
    """,
)
DOWN = (
    "ALTER TABLE orders DROP CONSTRAINT orders_warehouse_changes, DROP COLUMN warehouse_changes, DROP COLUMN actor",
    "ALTER TABLE items DROP CONSTRAINT items_warehouse, DROP COLUMN any_warehouse",
    # There is no such warehouse: an order that still waits for its choice will be rejected.
    "UPDATE items SET warehouse_id = 0 WHERE warehouse_id IS NULL",
    "ALTER TABLE items MODIFY warehouse_id BIGINT NOT NULL",
)


def upgrade() -> None:
    """Change the tables."""
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    """Change them back."""
    for statement in DOWN:
        op.execute(statement)
