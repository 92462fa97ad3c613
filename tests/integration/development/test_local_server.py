"""The private database server: its data outlives everything, and it outlives nobody."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy.engine import make_url

from development.local_server import LocalServer, LocalServerSettings, ServerDidNotStart
from development.private_files import make_private_folder
from development.server_programs import Flavour
from service_kit.database.migrating import Service
from tests.conftest import SERVER_SETTINGS
from tests.kits.processes import ROOT
from tests.kits.small_server import copy_template

pytestmark = pytest.mark.sql


@pytest.fixture
def tmp_path(tmp_path: Path, database_template: Path) -> Path:
    """The test's own folder, with a database in it."""
    copy_template(database_template, tmp_path)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path, database_flavour: Flavour) -> Iterator[LocalServer]:
    with LocalServer(tmp_path, database_flavour, settings=SERVER_SETTINGS) as running:
        yield running


def query(server: LocalServer, *statements: str) -> Any:
    parsed = make_url(server.url)
    with (
        closing(
            pymysql.connect(
                host=parsed.host or "",
                port=parsed.port or 0,
                user=parsed.username,
                password=str(parsed.password),
                autocommit=True,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


def store_a_row(server: LocalServer) -> None:
    query(
        server,
        "CREATE DATABASE kept",
        "CREATE TABLE kept.row_ (id INT PRIMARY KEY)",
        "INSERT INTO kept.row_ VALUES (7)",
    )


def owner_code(folder: Path, flavour: Flavour) -> str:
    return (
        "import time; from pathlib import Path; from development.local_server import LocalServer;"
        f"server = LocalServer(Path({str(folder)!r}), {flavour!r}); server.start();"
        "print(server.pid, flush=True); time.sleep(600)"
    )


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_is_durable_and_speaks_utf8(server: LocalServer) -> None:
    assert query(server, "SELECT @@innodb_flush_log_at_trx_commit, @@character_set_server") == ((1, "utf8mb4"),)
    isolation = query(server, "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')")
    assert isolation[0][1] == "READ-COMMITTED"


def test_its_temporary_files_are_its_own(server: LocalServer) -> None:
    # Any server that starts deletes `#sql...` in its temporary folder, also those of a server that is running.
    assert query(server, "SELECT @@tmpdir") == ((str(server.folder / "tmp"),),)


def test_only_the_owner_of_the_folder_knows_the_password(server: LocalServer) -> None:
    assert (server.folder / "password").stat().st_mode & 0o077 == 0
    for user in ("root", "stock"):
        with pytest.raises(pymysql.err.MySQLError):
            pymysql.connect(host="127.0.0.1", port=server.port, user=user, password="")


OTHER: Mapping[Service, Service] = {"warehouse": "orders", "orders": "warehouse"}


@pytest.mark.parametrize("service", OTHER)
def test_a_service_may_write_rows_of_its_own_database_and_nothing_else(server: LocalServer, service: Service) -> None:
    other = OTHER[service]
    for name in (service, other, "strange"):
        query(server, f"CREATE DATABASE {name}", f"CREATE TABLE {name}.row_ (id INT PRIMARY KEY)")
    rights = query(server, f"SHOW GRANTS FOR '{service}'@'127.0.0.1'")
    assert sorted(line.partition(" TO ")[0] for (line,) in rights) == [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{service}`.*",
        "GRANT USAGE ON *.*",
    ]
    place = make_url(server.service_url(service))
    with (
        closing(
            pymysql.connect(host="127.0.0.1", port=server.port, user=place.username or "", password=str(place.password))
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"INSERT INTO {service}.row_ VALUES (1)")
        for forbidden in (
            *(f"DROP TABLE {service}.row_", f"TRUNCATE {service}.row_", f"CREATE TABLE {service}.new_ (id INT)"),
            *(f"ALTER TABLE {service}.row_ ADD x INT", f"DROP DATABASE {service}", "CREATE DATABASE another"),
            *(f"SELECT * FROM {other}.row_", f"INSERT INTO {other}.row_ VALUES (1)", f"UPDATE {other}.row_ SET id = 2"),
            *(f"DELETE FROM {other}.row_", f"USE {other}", "USE strange"),
            *("SELECT * FROM mysql.user", "CREATE USER x", f"GRANT ALL ON *.* TO '{service}'@'127.0.0.1'"),
            *("SET GLOBAL max_connections = 1", "SELECT 1 INTO OUTFILE '/tmp/x'", "SHUTDOWN"),
        ):
            with pytest.raises(pymysql.err.MySQLError) as caught:
                cursor.execute(forbidden)
            assert caught.value.args[0] in (1044, 1045, 1142, 1227, 1410), forbidden


def test_the_user_who_once_wrote_both_databases_is_gone(server: LocalServer) -> None:
    query(server, "CREATE USER services@127.0.0.1 IDENTIFIED BY 'known'", "GRANT ALL ON *.* TO services@127.0.0.1")
    server.stop()
    server.start()
    assert query(server, "SELECT COUNT(*) FROM mysql.user WHERE user = 'services'") == ((0,),)


def test_its_folder_and_log_are_its_owners(server: LocalServer, tmp_path: Path) -> None:
    assert server.error_log.stat().st_mode & 0o777 == 0o600
    made = tmp_path / "new" / "folder"
    make_private_folder(made)
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent)] == [0o700, 0o700]


def test_a_stopped_server_finds_its_data_and_port_again(server: LocalServer) -> None:
    store_a_row(server)
    url = server.url
    server.stop()
    server.start()
    assert server.url == url
    assert query(server, "SELECT id FROM kept.row_") == ((7,),)


def test_a_killed_server_recovers(server: LocalServer) -> None:
    store_a_row(server)
    server.kill()
    assert server.pid is None
    server.start()
    assert query(server, "SELECT id FROM kept.row_") == ((7,),)


def test_the_folder_of_a_running_server_is_refused(server: LocalServer, tmp_path: Path) -> None:
    code = owner_code(tmp_path, server.flavour)
    second = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"in use by process {os.getpid()}" in second.stderr


UNTETHERED = (
    "import subprocess; from service_kit import child_process;"
    "child_process.start_tethered = lambda command, output, keep_open, environment: subprocess.Popen("
    "command, stdout=output, stderr=output, env=environment, pass_fds=keep_open, start_new_session=True);"
)


@pytest.mark.parametrize("before", ["", UNTETHERED], ids=["as it is", "where the kernel does not tell the server"])
def test_killing_its_owner_leaves_no_server_behind(tmp_path: Path, database_flavour: Flavour, before: str) -> None:
    code = before + owner_code(tmp_path, database_flavour)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server_pid = int(owner.stdout.readline())
        owner.kill()
    # The next start waits for the old server to end, or ends it, and takes the folder over.
    with LocalServer(tmp_path, database_flavour, settings=SERVER_SETTINGS) as again:
        assert again.pid not in {None, server_pid}
        assert is_gone(server_pid)


def test_a_server_that_cannot_start_shows_its_log_and_what_to_do(tmp_path: Path, database_flavour: Flavour) -> None:
    (tmp_path / "data" / "ibdata1").write_bytes(b"not a tablespace")
    with pytest.raises(ServerDidNotStart, match=r"(?s)error\.log.*\|.*DATABASE_URL"):
        LocalServer(tmp_path, database_flavour, settings=SERVER_SETTINGS).start()


def test_a_taken_port_is_refused_when_it_was_asked_for(
    server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("second")
    with pytest.raises(ServerDidNotStart, match=f"Port {server.port} is taken"):
        LocalServer(folder, server.flavour, port=server.port, settings=SERVER_SETTINGS).start()


def test_a_server_frozen_at_its_start_is_given_up_in_time(tmp_path: Path, database_flavour: Flavour) -> None:
    settings = LocalServerSettings(buffer_pool_mib=256, redo_log_mib=128, start_timeout_seconds=0.001)
    with pytest.raises(ServerDidNotStart, match="did not answer within"):
        LocalServer(tmp_path, database_flavour, settings=settings).start()


def test_signals_of_the_terminal_do_not_reach_it(server: LocalServer) -> None:
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_folder_made_by_another_server_is_refused(server: LocalServer, tmp_path: Path) -> None:
    assert LocalServer(tmp_path).flavour == server.flavour
    server.stop()
    other: Flavour = "mariadb" if server.flavour == "mysql" else "mysql"
    (tmp_path / "flavour").write_text(other)
    with pytest.raises(ServerDidNotStart, match=f"was made by {other}"):
        server.start()
