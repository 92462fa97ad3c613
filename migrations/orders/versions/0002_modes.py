"""The gateway's mode as switched at run time; what was last known of products, for when the warehouse is away."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE gateway_mode (
      id TINYINT NOT NULL PRIMARY KEY,
      mode VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      instead_of VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      actor VARCHAR(64) NOT NULL,
      switched_at DATETIME(6) NOT NULL,
      CONSTRAINT gateway_mode_is_one CHECK (id = 1)
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE known_products (
      product_id BIGINT NOT NULL PRIMARY KEY,
      price DECIMAL(12, 2) NULL,
      currency VARCHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
      seen_at DATETIME(6) NOT NULL
    ) ENGINE=InnoDB
    """,
)


def upgrade() -> None:
    """Create the tables."""
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    for name in ("known_products", "gateway_mode"):
        op.execute(f"DROP TABLE {name}")
