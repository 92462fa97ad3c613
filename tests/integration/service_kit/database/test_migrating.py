"""Migrations: up, down and up again, for both services, and many at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pymysql
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from service_kit.database import migrating
from service_kit.database.migrating import Service

pytestmark = pytest.mark.sql
SERVICES: tuple[Service, ...] = get_args(Service)


@pytest.fixture
def url(database_server: str) -> Iterator[str]:
    parsed = make_url(database_server)
    yield parsed.set(database="migrating").render_as_string(hide_password=False)
    engine = sqlalchemy.create_engine(parsed.set(drivername="mysql+pymysql"))
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS migrating")
    engine.dispose()


def tables(url: str) -> dict[str, str]:
    engine = sqlalchemy.create_engine(make_url(url).set(drivername="mysql+pymysql"))
    try:
        with engine.connect() as connection:
            names = [row[0] for row in connection.exec_driver_sql("SHOW TABLES")]
            return {name: connection.exec_driver_sql(f"SHOW CREATE TABLE `{name}`").one()[1] for name in names}
    finally:
        engine.dispose()


@pytest.mark.parametrize("service", SERVICES)
def test_up_down_and_up_again(url: str, service: Service) -> None:
    migrating.upgrade(url, service)
    once = tables(url)
    revision = migrating.current_revision(url)
    assert len(once) > 2
    migrating.downgrade(url, service)
    assert set(tables(url)) == {"alembic_version", "migration_lock"}
    assert migrating.current_revision(url) is None
    migrating.upgrade(url, service)
    assert tables(url) == once
    assert migrating.current_revision(url) == revision


@pytest.mark.parametrize("service", SERVICES)
def test_an_upgrade_to_where_it_is_changes_nothing(url: str, service: Service) -> None:
    migrating.upgrade(url, service)
    before = tables(url)
    migrating.upgrade(url, service)
    assert tables(url) == before


@pytest.mark.parametrize("service", SERVICES)
def test_every_table_has_a_primary_key_and_is_transactional(url: str, service: Service) -> None:
    migrating.upgrade(url, service)
    for name, definition in tables(url).items():
        assert "PRIMARY KEY" in definition, name
        assert "ENGINE=InnoDB" in definition, name


def test_a_refused_login_is_an_error_that_says_so(url: str) -> None:
    wrong = make_url(url).set(password="wrong").render_as_string(hide_password=False)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="1045"):
        migrating.upgrade(wrong, "warehouse")


def test_a_second_program_waits_while_one_migrates(url: str) -> None:
    migrating.upgrade(url, "warehouse")
    parsed = make_url(url)
    holder = pymysql.connect(
        host=parsed.host or "",
        port=parsed.port or 0,
        user=parsed.username,
        password=str(parsed.password),
        database="migrating",
    )
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(migrating.upgrade, url, "warehouse")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            holder.rollback()
            waiting.result(timeout=30)
    finally:
        holder.close()
