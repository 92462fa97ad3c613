"""What an operator is told whose database can't be used: one line, which setting, what to do; never a traceback."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy.engine import URL, make_url

from development.free_ports import free_port
from service_kit.starting import Exit
from tests.kits.operators import PREFIXES, Command, end_of, ends_of, of_both
from tests.kits.processes import Processes
from tests.kits.warehouse_kit import calling, sql

pytestmark = pytest.mark.sql
EVERY: list[Command] = [(module, command) for module in PREFIXES for command in ("migrate", "serve", "audit")]


@pytest.fixture
def server(database_server: str) -> URL:
    return make_url(database_server)


def url(parsed: URL, **changes: object) -> str:
    return parsed.set(**changes).render_as_string(hide_password=False)  # type: ignore[arg-type]


def told_by(commands: list[Command], text: str) -> dict[Command, str]:
    """What each command says, ending with Exit.NEEDED, whose databases both are `text`."""
    ends = ends_of(commands, of_both(text, text))
    for command, ended in zip(commands, ends, strict=True):
        assert ended.status == Exit.NEEDED, (command, ended)
        assert f"{PREFIXES[command[0]]}DATABASE_URL: " in ended.told(), command
    return {command: ended.told() for command, ended in zip(commands, ends, strict=True)}


def test_a_wrong_password(server: URL, warehouse_database_url: str) -> None:
    wrong = url(make_url(warehouse_database_url), password="wr@ng/secret")
    for said in told_by(EVERY, wrong).values():
        assert f"refuses the login of '{server.username}'; check user and password" in said
        assert "secret" not in said


def test_a_host_where_nobody_is() -> None:
    nowhere = f"mysql://u:p@127.0.0.1:{free_port()}/shop"
    commands = [command for command in EVERY if command != ("warehouse", "serve")]
    for said in told_by(commands, nowhere).values():
        assert "can't be reached" in said
        assert "check host and port" in said


def test_a_name_that_means_no_host() -> None:
    for said in told_by(
        [("warehouse", "migrate"), ("order_gateway", "serve")], "mysql://u:p@no.such.invalid/shop"
    ).values():
        assert "no.such.invalid:3306 can't be reached" in said


async def test_a_warehouse_waits_for_a_database_that_is_away_and_says_so_in_a_line(processes: Processes) -> None:
    port = free_port()
    settings = of_both(f"mysql://u:p@127.0.0.1:{free_port()}/shop", "") | {"WAREHOUSE_LISTEN": f"127.0.0.1:{port}"}
    warehouse = processes.launch("warehouse", settings)
    async with calling(f"127.0.0.1:{port}") as calls, asyncio.timeout(30):
        await calls.channel.channel_ready()
        assert await calls.status() == 2
    lines = [json.loads(line) for line in warehouse.log_path.read_text().splitlines()]
    assert "WAREHOUSE_DATABASE_URL: the database at 127.0.0.1" in lines[0]["problem"]
    assert "exception" not in " ".join(warehouse.log_path.read_text().splitlines())


@pytest.mark.parametrize("text", ["nonsense", "mysql://u:pa/s@wOrd@h/shop", "mysql://u:p@h/shop?ssl_ca=ca.pem"])
def test_a_url_that_can_not_be_used(text: str) -> None:
    for (module, _), ended in zip(EVERY, ends_of(EVERY, of_both(text, text)), strict=True):
        assert ended.status == Exit.SETTINGS
        assert ended.lines[0] == "These settings can't be used:"
        [line] = ended.lines[1:]
        assert line.startswith(f"  {PREFIXES[module]}DATABASE_URL: ")
        assert "wOrd" not in line


def test_the_ca_file_of_the_database_that_is_missing(warehouse_database_url: str) -> None:
    commands: list[Command] = [("warehouse", "serve"), ("order_gateway", "migrate")]
    for ended in ends_of(commands, of_both(*[f"{warehouse_database_url}?tls_ca=/nowhere/ca.pem"] * 2)):
        assert ended.status == Exit.NEEDED
        assert "DATABASE_URL: the CA file of tls_ca, /nowhere/ca.pem, can't be used: No such file" in ended.told()


def test_tls_that_the_database_does_not_offer_or_nobody_vouches_for(warehouse_database_url: str) -> None:
    """MariaDB as it comes has no certificate; MySQL makes one of its own, which no authority of the system signed."""
    for said in told_by(EVERY, f"{warehouse_database_url}?tls=on").values():
        assert "does not encrypt connections, and tls=on asks for it" in said or "is not trusted" in said


@dataclass(frozen=True)
class Users:
    nobody: str
    reader: str


@pytest.fixture
def users(server: URL) -> Iterator[Users]:
    admin, names = url(server), Users("nobody_startup", "reader_startup")
    for name in (names.nobody, names.reader):
        sql(admin, f"DROP USER IF EXISTS '{name}'@'127.0.0.1'")
        sql(admin, f"CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY 'secret'")
    sql(admin, f"GRANT SELECT ON *.* TO '{names.reader}'@'127.0.0.1'")
    yield names
    for name in (names.nobody, names.reader):
        sql(admin, f"DROP USER '{name}'@'127.0.0.1'")


def test_a_missing_right(users: Users, server: URL, warehouse_database_url: str, orders_database_url: str) -> None:
    for name in (users.nobody, users.reader):
        settings = of_both(
            *(
                url(make_url(own), username=name, password="secret")
                for own in (warehouse_database_url, orders_database_url)
            )
        )
        commands = [command for command in EVERY if name == users.nobody or command[1] != "audit"]
        for command, ended in zip(commands, ends_of(commands, settings), strict=True):
            assert ended.status == Exit.NEEDED, (command, ended)
            assert f"the user '{name}' lacks a right" in ended.told()
            assert "grant it" in ended.told()


def test_no_database_and_no_tables_yet(server: URL) -> None:
    commands = [command for command in EVERY if command[1] != "migrate"]
    for (module, _), said in told_by(commands, url(server, database="not_there_yet")).items():
        assert f"run `python -m {module} migrate`" in said
    sql(url(server), "CREATE DATABASE startup_empty")
    try:
        for (module, _), said in told_by(commands, url(server, database="startup_empty")).items():
            assert f"run `python -m {module} migrate`" in said
    finally:
        sql(url(server), "DROP DATABASE startup_empty")


def test_tables_that_are_older_or_newer_than_the_program(warehouse_database_url: str) -> None:
    settings = of_both(warehouse_database_url, "")
    [(newest,)] = sql(warehouse_database_url, "SELECT version_num FROM alembic_version")
    try:
        sql(warehouse_database_url, "UPDATE alembic_version SET version_num = '0001'")
        ended = end_of("warehouse", "serve", settings=settings)
        assert ended.status == Exit.NEEDED
        assert "are older than this program: run `python -m warehouse migrate`" in ended.told()
        sql(warehouse_database_url, "UPDATE alembic_version SET version_num = '9999'")
        ended = end_of("warehouse", "migrate", settings=settings)
        assert ended.status == Exit.NEEDED
        assert "newer than this program" in ended.told()
    finally:
        sql(warehouse_database_url, "UPDATE alembic_version SET version_num = %s", newest)


def test_database_url_of_all_services_is_named_where_it_is_the_one_that_counts() -> None:
    for module in PREFIXES:
        settings = {"DATABASE_URL": f"mysql://u:p@127.0.0.1:{free_port()}", "ORDERS_PROFILE": "development"}
        assert end_of(module, "migrate", settings=settings).told().startswith("DATABASE_URL: the database at")
