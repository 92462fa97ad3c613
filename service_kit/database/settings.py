"""The bounds of the database door."""

from pydantic import BaseModel, Field
from sqlalchemy.engine import make_url

from service_kit.database_url import read_database_url


class DatabaseSettings(BaseModel, extra="forbid"):
    """Bounds of the database door."""

    pool_size: int = Field(8, ge=1, le=200, description="connections kept open per process")
    connect_timeout_seconds: float = Field(5, gt=0, le=60)
    lock_wait_timeout_seconds: int = Field(1, ge=1, le=60, description="innodb_lock_wait_timeout")
    lock_patience_seconds: float = Field(
        0.3, ge=0.001, le=60, description="a batch waits so long for locked rows, then goes on with those that are free"
    )
    locked_look_seconds: float = Field(
        0.1, ge=0.001, le=10, description="how often rows that were found locked are looked at again"
    )
    locked_rows_max: int = Field(10_000, ge=1, le=1_000_000, description="locked rows that are remembered")
    tries: int = Field(8, ge=1, le=50, description="how often one transaction is tried")
    retry_wait_max_seconds: float = Field(0.25, gt=0, le=10, description="longest wait between two tries")
    retry_for_seconds: float = Field(8, gt=0, le=300, description="no new try this long after the first one began")
    transaction_timeout_seconds: float = Field(
        10, gt=0, le=300, description="a try that takes longer is given up, for good if retry_for_seconds are over then"
    )
    connection_age_max_seconds: float = Field(
        1800, gt=0, le=86_400, description="a connection is replaced after this, or up to a quarter earlier"
    )
    idle_test_seconds: float = Field(
        30, gt=0, le=86_400, description="a connection that was not used for so long is tested before it is"
    )
    test_timeout_seconds: float = Field(1, gt=0, le=60, description="a connection that does not answer in time is dead")
    settle_seconds: float = Field(
        2, gt=0, le=300, description="left to the other tries under way once one has run into its timeout"
    )
    unacknowledged_seconds: float = Field(
        5, ge=1, le=600, description="a connection whose bytes the other side's system does not confirm is dead (Linux)"
    )
    follow_seconds: float = Field(
        1, ge=0, le=3600, description="how often it is looked where new connections lead, to move there; 0: never"
    )

    def too_few_connections(self, setting: str, pinned: int) -> list[str]:
        """Why `pool_size` is too small for a process that never gives `pinned` connections back; [] if it is not."""
        enough = f"a process never gives {pinned} of them back, and the rest of it needs one; take {pinned + 1} or more"
        return [] if self.pool_size > pinned else [f"{setting}: {self.pool_size} connections are too few: {enough}"]


def service_database_url(url: str, name: str) -> str:
    """The URL of a service's own database on the server `url`.

    `mysql://user@host:3306` gives the database `name`; `mysql://user@host:3306/shop` gives `shop_<name>`,
    so that several installations can share a server.

    Raises: BadDatabaseUrl.
    """
    read_database_url(url, needs_database=False)
    parsed = make_url(url)
    return parsed.set(database=f"{parsed.database}_{name}" if parsed.database else name).render_as_string(False)
