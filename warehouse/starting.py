"""What must be so before a warehouse starts, and how its commands fail."""

from service_kit.database.database import Database
from service_kit.database.problems import Service, check_database
from warehouse.settings import WarehouseSettings

SERVICE = Service(
    module="warehouse",
    migrations="warehouse",
    prefix="WAREHOUSE_",
    needs=(
        "INSERT INTO request_ids SELECT * FROM request_ids WHERE FALSE",
        "UPDATE stock_levels SET version = version WHERE FALSE",
    ),
)
"""The rights that are looked at stand for those of their kind."""


async def check(settings: WarehouseSettings) -> None:
    """Look whether the database can be worked with; one that is away now may come later. Raises: NotStarted."""
    database = Database(settings.database_url, settings.database)
    try:
        await check_database(database, SERVICE, must_answer=False)
    finally:
        await database.close()
