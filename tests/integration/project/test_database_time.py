"""Times of rows are compared with the database's clock only, and all ways to ask it agree."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from service_kit.database.database import Database
from tests.kits.processes import ROOT
from tests.kits.warehouse_kit import scalar, sql

OWN_CLOCK = re.compile(r"datetime\.now\(|utcnow\(|\btime\.time\(|datetime\.today\(|date\.today\(")
ALLOWED = {
    "order_gateway/http/guards/tokens.py": "tokens carry times of those who issue them",
    "order_gateway/http/payments.py": "callbacks carry times of the provider",
    "order_gateway/audit/why.py": "shown to a person, beside the times of rows",
}
"""Where this machine's clock is asked, and why that compares it with no row."""
ZONES = ("-07:00", "+05:30")


def test_this_machines_clock_is_asked_only_where_no_row_is_concerned() -> None:
    found = {
        str(path.relative_to(ROOT))
        for service in ("order_gateway", "warehouse", "service_kit", "development")
        for path in Path(ROOT, service).rglob("*.py")
        if OWN_CLOCK.search(path.read_text())
    }
    assert found == set(ALLOWED)


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest, orders_database_url: str) -> Iterator[str]:
    """The server's own time zone, which sessions have that don't say another one."""
    before = scalar(orders_database_url, "SELECT @@GLOBAL.time_zone")
    sql(orders_database_url, "SET GLOBAL time_zone = %s", request.param)
    yield request.param
    sql(orders_database_url, "SET GLOBAL time_zone = %s", before)


@pytest.mark.sql
async def test_all_ways_to_ask_the_time_agree_whatever_the_servers_zone(orders_database_url: str, zone: str) -> None:
    assert scalar(orders_database_url, "SELECT @@SESSION.time_zone") == zone
    asked = select(
        func.now(6), text("SYSDATE(6)"), text("UTC_TIMESTAMP(6)"), text("CURRENT_TIMESTAMP(6)"), text("@@time_zone")
    )
    database = Database(orders_database_url)
    try:
        async with database.engine.connect() as connection:
            *instants, session_zone = (await connection.execute(asked)).one()
    finally:
        await database.close()
    assert session_zone == "+00:00"
    assert (max(instants) - min(instants)).total_seconds() < 60
