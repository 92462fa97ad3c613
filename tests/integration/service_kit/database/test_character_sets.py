"""Databases that were made with another character set: every text is stored all the same, and old ones are kept."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import aiohttp
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from service_kit.database import migrating
from service_kit.database.character_sets import (
    ASCII_COLLATION,
    COLLATION,
    definition,
    report_wrong_columns,
)
from service_kit.database.database import Database
from service_kit.database.migrating import Service
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from tests.kits.warehouse_kit import sql
from warehouse.demo import load_demo

pytestmark = pytest.mark.sql
SERVICES: tuple[Service, ...] = get_args(Service)
DEFAULTS = ("latin1", "utf8mb3", "utf8mb4 COLLATE utf8mb4_unicode_ci")
BEFORE = {"orders": "0005", "warehouse": "0002"}
"""The revisions that took the database's default."""
FACE = "\N{GRINNING FACE}"
MakeWith = Callable[[str], str]


@pytest.fixture
def make_with(database_server: str) -> Iterator[MakeWith]:
    """Makes an empty database with a character set as its default; gives its URL."""
    engine = sqlalchemy.create_engine(make_url(database_server).set(drivername="mysql+pymysql"))
    made: list[str] = []

    def make(default: str) -> str:
        name = f"characters_{len(made)}"
        made.append(name)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET {default}")
        return make_url(database_server).set(database=name).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
    engine.dispose()


def collations(url: str) -> dict[str, str]:
    """The collation of every text column and every table."""
    schema = make_url(url).database
    columns = sql(
        url,
        "SELECT CONCAT(table_name, '.', column_name), collation_name FROM information_schema.columns"
        " WHERE table_schema = %s AND collation_name IS NOT NULL",
        schema,
    )
    tables = sql(
        url, "SELECT table_name, table_collation FROM information_schema.tables WHERE table_schema = %s", schema
    )
    return dict([*columns, *tables])


def definitions(url: str) -> dict[str, str]:
    """How each table would be made again; what is said of a column although its table says it, too, left out.

    So is the character set of ASCII texts in constraints: MySQL names that of the connection or of the column.
    """
    names = [name for (name,) in sql(url, "SHOW TABLES") if name != "migration_lock"]
    texts = {name: sql(url, f"SHOW CREATE TABLE `{name}`")[0][1] for name in names}
    said = re.compile(r"( CHARACTER SET utf8mb4)?( COLLATE utf8mb4_bin)?(?=[ ,\n])|_(ascii|utf8mb4)(?=')")
    return {name: said.sub("", text) for name, text in texts.items()}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("default", DEFAULTS)
def test_every_column_is_utf8mb4_whatever_the_database_was_made_with(
    make_with: MakeWith, default: str, service: Service
) -> None:
    url, usual = make_with(default), make_with("utf8mb4 COLLATE utf8mb4_bin")
    migrating.upgrade(url, service)
    found = collations(url)
    assert len(found) > 20
    assert {name: kind for name, kind in found.items() if kind not in (COLLATION, ASCII_COLLATION)} == {
        name: kind for name, kind in found.items() if name == "migration_lock"
    }
    migrating.upgrade(usual, service)
    assert definitions(url) == definitions(usual)


def test_what_was_stored_before_is_still_there(make_with: MakeWith) -> None:
    url = make_with("latin1")
    migrating.upgrade(url, "orders", BEFORE["orders"])
    columns = {
        "user_id": "'7'",
        **dict.fromkeys(("status", "stock", "payment", "way"), "''"),
        "total_amount": "0",
        "shipping_address": "'Stra\u00dfe 1, K\u00f8benhavn'",
        "payment_method": "'card'",
        "actor": "'Zo\u00eb'",
        **dict.fromkeys(("payment_deadline", "created_at", "updated_at"), "UTC_TIMESTAMP(6)"),
        "correlation_id": "'c'",
        "placement": "'p'",
    }
    values = {**columns, "status": "'pending'", "stock": "'held'", "payment": "'none'", "way": "'grpc'"}
    sql(url, f"INSERT INTO orders ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    migrating.upgrade(url, "orders")
    assert sql(url, "SELECT shipping_address, actor FROM orders") == [("Stra\u00dfe 1, K\u00f8benhavn", "Zo\u00eb")]
    sql(url, "UPDATE orders SET shipping_address = %s, actor = %s", FACE * 1000, FACE * 64)
    assert sql(url, "SELECT shipping_address, actor FROM orders") == [(FACE * 1000, FACE * 64)]
    assert sql(url, "SHOW COLUMNS FROM orders LIKE 'actor'")[0][4] == "system"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_start_says_which_columns_are_wrong(make_with: MakeWith, service: Service) -> None:
    url = make_with("latin1")
    await asyncio.to_thread(migrating.upgrade, url, service)
    database = Database(url)
    try:
        with capture_logs() as logs:
            assert await report_wrong_columns(database) == []
            assert logs == []
        table, column = ("orders", "shipping_address") if service == "orders" else ("products", "name")
        sql(url, f"ALTER TABLE {table} MODIFY {column} VARCHAR(255) CHARACTER SET latin1 NOT NULL")
        with capture_logs() as logs:
            found = await report_wrong_columns(database)
    finally:
        await database.close()
    assert found == [f"{table}.{column} (latin1_swedish_ci)"]
    [line] = logs
    assert (line["event"], line["columns"], line["log_level"]) == ("wrong_character_set", found, "error")
    assert "migrate" in line["advice"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("a", "varchar(64)", "latin1_bin", "NO", "", None, "", "", ""), "varchar(64) {} NOT NULL"),
        (("a", "varchar(64)", "latin1_bin", "YES", "", None, "", "", ""), "varchar(64) {} NULL"),
        (
            ("a", "varchar(9)", "x", "NO", "", "it's", "", "", "100%"),
            "varchar(9) {} NOT NULL DEFAULT 'it''s' COMMENT '100%'",
        ),
        (("a", "mediumtext", "x", "NO", "", "", "", "", ""), "mediumtext {} NOT NULL DEFAULT ''"),
    ],
)
def test_all_else_of_a_column_stays(row: tuple[Any, ...], expected: str) -> None:
    assert definition(row) == expected.replace("{}", "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")


@pytest.mark.e2e
@pytest.mark.parametrize("default", DEFAULTS[:2])
async def test_orders_with_any_text(make_with: MakeWith, processes: Processes, default: str) -> None:
    warehouse_url, orders_url = make_with(default), make_with(default)
    await asyncio.to_thread(migrating.upgrade, warehouse_url, "warehouse")
    await asyncio.to_thread(migrating.upgrade, orders_url, "orders")
    target = processes.warehouse(warehouse_url)[1]
    await load_demo(target, "")
    base_url = processes.order_gateway(orders_url, target)[1]
    body: dict[str, Any] = {
        "user_id": f"Zo\u00eb {FACE}",
        "shipping_address": f"1 Main Street {FACE}\n\u4e1c\u4eac",
        "payment_method": f"card {FACE}",
        "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 1}],
    }
    headers = {"X-API-Key": DEVELOPMENT_API_KEY}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{base_url}/orders", json=body) as response:
            placed = (await response.json())["data"]
            assert response.status == 201
        assert {name: placed[name] for name in body if name != "items"} == {
            name: value for name, value in body.items() if name != "items"
        }
        async with session.post(f"{base_url}/orders/{placed['id']}/pay", json={"payment_reference": FACE}) as response:
            assert response.status == 200, await response.text()
        async with session.post(f"{base_url}/orders/{placed['id']}/cancel", json={"reason": FACE * 255}) as response:
            assert response.status == 200, await response.text()
        async with session.get(f"{base_url}/orders", params={"user_id": body["user_id"]}) as response:
            assert [one["id"] for one in (await response.json())["data"]] == [placed["id"]]
    assert sql(orders_url, "SELECT COUNT(*) FROM history WHERE note = %s", FACE * 255) == [(1,)]
