"""`make run`: it gets ready, finds its data again, keeps its processes alive, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from development.free_ports import free_port
from development.server_programs import Flavour
from development.service_process import grpc_is_serving, http_answers
from tests.kits.development_run import Run, development
from tests.kits.processes import DEVELOPMENT_API_KEY, ROOT, clean_environment
from tests.kits.waiting import block_until
from tests.kits.warehouse_kit import sql

pytestmark = [pytest.mark.e2e, pytest.mark.sql]


@pytest.fixture
def start(tmp_path: Path, database_flavour: Flavour) -> Iterator[Callable[[], Run]]:
    """Starts a run in the same folder and on the same ports each time."""
    started: list[Run] = []
    ports = free_port(), free_port()

    def start_one() -> Run:
        started.append(Run(tmp_path / "data", database_flavour, *ports))
        return started[-1]

    yield start_one
    for one in started:
        one.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, database_flavour: Flavour) -> Iterator[Run]:
    """One run that several tests share; each of them leaves it serving."""
    run = Run(tmp_path_factory.mktemp("steady") / "data", database_flavour, free_port(), free_port())
    try:
        run.wait_for("^ready ")
        yield run
    finally:
        run.end(signal.SIGTERM)


def finished(command: list[str], settings: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(settings or {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def wait_until_gone(pids: list[int]) -> None:
    files = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    block_until(lambda: not any(file.exists() and file.read_bytes() for file in files))


def wait_until_it_serves(run: Run) -> None:
    block_until(lambda: grpc_is_serving(run.target) and http_answers(f"{run.base_url}/api/v1/health"))


def test_it_leaves_nothing_open_to_others(steady: Run) -> None:
    """Folders and logs are their owner's, and each service logs in as a user of its own, who can't change tables."""
    private = [steady.data_dir, *steady.data_dir.glob("logs/**"), *steady.data_dir.glob("*database-url")]
    assert len(private) >= 5
    for path in (*private, *steady.data_dir.glob("logs/*"), steady.data_dir / "database"):
        assert path.stat().st_mode & 0o077 == 0, path
    url = (steady.data_dir / "database-url").read_text().strip()
    users = {(row[1], row[3]) for row in sql(url, "SHOW PROCESSLIST") if row[3] in ("warehouse", "orders")}
    assert users == {("warehouse", "warehouse"), ("orders", "orders")}
    for child, own in (("warehouse", b"WAREHOUSE_"), ("order gateway", b"ORDERS_")):
        environment = Path(f"/proc/{steady.children()[child]}/environ").read_bytes().split(b"\0")
        known = [line.partition(b"=")[0] for line in environment if b"DATABASE_URL=" in line]
        assert known == [own + b"DATABASE_URL"]


def test_ready_then_stopped_without_leftovers_then_ready_again(start: Callable[[], Run]) -> None:
    first = start()
    ready = first.wait_for("^ready ")
    assert f"grpc {first.target}" in ready
    assert f"http {first.base_url}" in ready
    assert grpc_is_serving(first.target)
    assert http_answers(f"{first.base_url}/api/v1/health")
    children = first.children()
    assert set(children) == {"database", "warehouse", "order gateway"}
    assert first.end(signal.SIGINT) == 0
    wait_until_gone(list(children.values()))

    second = start()
    second.wait_for("^ready ")
    assert not any("making a new database" in line for line in second.lines)
    assert second.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(("gateway", "status"), [("queued", 202), ("auto", 201)])
def test_the_way_to_the_warehouse_can_be_chosen(
    tmp_path: Path, database_flavour: Flavour, gateway: str, status: int
) -> None:
    run = Run(tmp_path / "data", database_flavour, free_port(), free_port(), gateway)
    try:
        run.wait_for("^ready ")
        item = {"product_id": 1, "warehouse_id": 1, "quantity": 2}
        order = {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [item]}
        assert ask(f"{run.base_url}/api/v1/orders", order)[0] == status
        found, answer = ask(f"{run.base_url}/api/v1/orders/1?wait=10")
        assert (found, answer["data"]["status"]) == (200, "pending")
    finally:
        assert run.end() == 0


def ask(url: str, body: object = None) -> tuple[int, Any]:
    headers = {"X-API-Key": DEVELOPMENT_API_KEY, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as response:
        return response.status, json.load(response)


def test_proxies_that_the_environment_names_do_not_keep_it_from_getting_ready(
    start: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    start().wait_for("^ready ")


@pytest.mark.parametrize("victim", ["warehouse", "order gateway", "database"])
def test_a_killed_process_is_started_again(steady: Run, victim: str) -> None:
    old = steady.children()[victim]
    os.kill(old, signal.SIGKILL)
    assert "killed by signal 9; starting it again" in steady.wait_for(victim)
    steady.wait_for(rf"{victim}.*started again")
    wait_until_it_serves(steady)
    # A process has no command line for a moment after its start.
    block_until(lambda: steady.children().get(victim, old) != old)


def test_a_killed_runner_leaves_nothing_behind_and_the_next_run_takes_over(start: Callable[[], Run]) -> None:
    first = start()
    first.wait_for("^ready ")
    children = first.children()
    first.process.kill()
    first.process.wait()
    start().wait_for("^ready ")
    wait_until_gone(list(children.values()))


@pytest.mark.parametrize("command", ["audit", "migrate"])
def test_what_needs_a_database_uses_the_server_of_the_run(steady: Run, command: str) -> None:
    done = finished(development(command, steady.data_dir))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_audit_of_a_stopped_system_starts_its_server_for_a_while(start: Callable[[], Run]) -> None:
    run = start()
    run.wait_for("^ready ")
    run.end()
    done = finished(development("audit", run.data_dir))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_taken_port_is_named(steady: Run, tmp_path: Path) -> None:
    options = ["--grpc-port", steady.target.rsplit(":", 1)[1], "--http-port", str(free_port())]
    second = finished(development("run", tmp_path, *options))
    assert second.returncode == 1
    assert "GRPC_PORT" in second.stdout


def test_an_audit_without_any_database_says_where_to_begin(tmp_path: Path) -> None:
    done = finished(development("audit", tmp_path / "none"))
    assert done.returncode == 1
    assert "make run" in done.stdout


def test_a_database_url_that_would_not_mean_what_it_says_is_refused(tmp_path: Path) -> None:
    options = ["--grpc-port", str(free_port()), "--http-port", str(free_port())]
    done = finished(development("run", tmp_path, *options), {"DATABASE_URL": "mysql://nobody@127.0.0.1?ssl=on"})
    assert done.returncode == 1
    assert "write tls=on" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_database_server_that_is_away_is_named(tmp_path: Path) -> None:
    options = ["--grpc-port", str(free_port()), "--http-port", str(free_port())]
    done = finished(development("run", tmp_path, *options), {"DATABASE_URL": f"mysql://nobody@127.0.0.1:{free_port()}"})
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stdout
