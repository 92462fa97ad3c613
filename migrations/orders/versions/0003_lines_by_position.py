"""What belongs to an order is found under the order's own number; nothing is kept of steps that are done.

Lines, holds and happenings are counted within their order instead of each having a number and an index of its own,
so that a new order touches fewer pages, and needs no number read back. An order counts its events as `version`.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _count(table: str, column: str, index: str) -> tuple[str, ...]:
    """Count the rows of each order in `column`, instead of numbering all rows of the table."""
    places = f"SELECT id, ROW_NUMBER() OVER (PARTITION BY order_id ORDER BY id) AS place FROM {table}"  # noqa: S608
    return (
        f"ALTER TABLE {table} ADD COLUMN {column} INT NOT NULL DEFAULT 0 AFTER order_id",
        f"UPDATE {table} AS t JOIN ({places}) AS p ON p.id = t.id SET t.{column} = p.place",  # noqa: S608
        f"""
        ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT, DROP PRIMARY KEY, DROP KEY {index}, DROP COLUMN id,
        ADD PRIMARY KEY (order_id, {column})
        """,
    )


UPGRADE = (
    "ALTER TABLE orders ADD COLUMN version INT NOT NULL DEFAULT 1 AFTER id",
    """
    UPDATE orders JOIN (SELECT order_id, COUNT(*) AS events FROM history GROUP BY order_id) AS h
    ON h.order_id = orders.id SET orders.version = h.events
    """,
    *_count("items", "position", "items_of_order"),
    *_count("reservations", "position", "reservations_of_order"),
    *_count("history", "version", "history_of_order"),
    "ALTER TABLE reservations DROP KEY reservations_by_id",
    "DELETE FROM intents WHERE due_at IS NULL",
    "ALTER TABLE intents DROP CONSTRAINT intents_open_or_done",
    "ALTER TABLE intents DROP COLUMN done_at, MODIFY due_at DATETIME(6) NOT NULL",
)
DOWNGRADE = (
    """
    ALTER TABLE intents MODIFY due_at DATETIME(6) NULL, ADD COLUMN done_at DATETIME(6) NULL,
    ADD CONSTRAINT intents_open_or_done CHECK ((due_at IS NULL) = (done_at IS NOT NULL))
    """,
    *(
        f"ALTER TABLE {table} DROP PRIMARY KEY, ADD COLUMN id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY FIRST, "
        f"ADD KEY {index}, DROP COLUMN {count}"
        for table, count, index in (
            ("items", "position", "items_of_order (order_id)"),
            ("reservations", "position", "reservations_of_order (order_id)"),
            ("history", "version", "history_of_order (order_id, id)"),
        )
    ),
    "ALTER TABLE reservations ADD KEY reservations_by_id (reservation_id)",
    "ALTER TABLE orders DROP COLUMN version",
)


def upgrade() -> None:
    """Count within the order."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Number all rows of a table again."""
    for statement in DOWNGRADE:
        op.execute(statement)
