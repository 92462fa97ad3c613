"""Whether a line's warehouse is the customer's wish or ours to choose, and that it may not be chosen yet.

Beside it the actor on whose behalf an order's steps are done, so that the warehouse's ledger can name them; and a
rejected order may have to give back a hold that came late.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _states(rejected: str) -> str:
    """The constraint on what goes together; `rejected`: what the stock of a rejected order may be."""
    return f"""
    ALTER TABLE orders ADD CONSTRAINT orders_state CHECK (
      (status = 'pending_reservation' AND stock = 'reserving' AND payment = 'none')
      OR (status = 'rejected' AND stock IN ({rejected}) AND payment = 'none')
      OR (status = 'pending' AND stock = 'held' AND payment IN ('none', 'charging'))
      OR (status = 'paid' AND stock IN ('committing', 'committed') AND payment = 'charged')
      OR (status IN ('shipped', 'completed') AND stock = 'committed' AND payment = 'charged')
      OR (status = 'cancelled' AND stock IN ('releasing', 'free', 'committing', 'returning', 'returned')
          AND payment IN ('none', 'declined', 'refunding', 'refunded'))
    )
    """


UP = (
    "ALTER TABLE orders DROP CONSTRAINT orders_state",
    _states("'free', 'releasing'"),
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
    "ALTER TABLE orders DROP CONSTRAINT orders_state",
    "UPDATE orders SET stock = 'free' WHERE status = 'rejected'",
    _states("'free'"),
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
