"""What an operator is told at a start: ports that are taken, files that are missing; and what is not asked for."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from development.free_ports import free_port
from development.service_process import http_answers
from order_gateway import __main__ as order_gateway_main
from order_gateway import settings as orders_settings
from order_gateway.settings import OrdersSettings
from service_kit.database.database import DriverSession
from service_kit.ports import hold_alone, require_free, split_address
from service_kit.starting import EXIT_STATUSES, Exit, NotStarted
from tests.kits.certificates import Authority
from tests.kits.operators import end_of, of_both
from tests.kits.processes import Processes
from tests.kits.warehouse_kit import serving
from warehouse import settings as warehouse_settings
from warehouse.__main__ import app as warehouse_cli

pytestmark = pytest.mark.sql


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_server_on_the_same_port_is_told_that_it_is_taken(
    processes: Processes, warehouse_database_url: str, workers: str
) -> None:
    _, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_WORKERS": workers})
    for listen in (target, target.replace("127.0.0.1", "0.0.0.0"), target.replace("127.0.0.1", "localhost")):
        for more in ("1", "2"):
            settings = of_both(f"{warehouse_database_url}_other", "") | {
                "WAREHOUSE_LISTEN": listen,
                "WAREHOUSE_WORKERS": more,
                "WAREHOUSE_ALLOW_INSECURE": "yes-on-a-private-network",
            }
            ended = end_of("warehouse", "serve", settings=settings)
            assert ended.status == Exit.NEEDED
            assert ended.told() == (
                f"WAREHOUSE_LISTEN: can't listen on {listen}: the port is taken by another process; "
                "stop that one, or set another port"
            )


def test_the_ports_of_metrics_and_of_the_order_gateway(
    processes: Processes, warehouse_database_url: str, orders_database_url: str
) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    _, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_METRICS_LISTEN": metrics})
    for workers in ("1", "2"):
        settings = of_both(warehouse_database_url, "") | {
            "WAREHOUSE_METRICS_LISTEN": metrics,
            "WAREHOUSE_WORKERS": workers,
        }
        ended = end_of("warehouse", "serve", settings=settings)
        assert ended.status == Exit.NEEDED
        assert ended.told().startswith(f"WAREHOUSE_METRICS_LISTEN: can't listen on {metrics}: the port is taken")
    _, base_url = processes.order_gateway(orders_database_url, target)
    listen = base_url.removeprefix("http://").removesuffix("/api/v1")
    ended = end_of("order_gateway", "serve", settings=of_both("", orders_database_url) | {"ORDERS_LISTEN": listen})
    assert ended.status == Exit.NEEDED
    assert ended.told().startswith(f"ORDERS_LISTEN: can't listen on {listen}: the port is taken")


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("192.0.2.1:50051", "this machine has no such address"),
        ("no.such.invalid:50051", "set an address of this machine"),
        ("127.0.0.1:70000", "there is no port 70000"),
    ],
)
def test_an_address_that_is_none_of_this_machine(listen: str, why: str) -> None:
    with pytest.raises(NotStarted, match=f"LISTEN: can't listen on {listen}: .*{why}"):
        require_free("LISTEN", listen)


def test_who_holds_a_port_shares_it_only_with_those_who_ask_for_that() -> None:
    with hold_alone("LISTEN", "127.0.0.1:0") as address:
        with pytest.raises(NotStarted, match="is taken"), hold_alone("LISTEN", address):
            pass
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(split_address(address))
    require_free("LISTEN", address)


def test_a_worker_without_its_supervisor_does_not_share_a_port(warehouse_database_url: str) -> None:
    ended = end_of("warehouse", "serve", "--worker-of", "1", settings=of_both(warehouse_database_url, ""))
    assert ended.status == Exit.NEEDED
    assert "several processes share a port by --workers" in ended.told()


def test_a_file_of_tls_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (certificate, key), (_, other_key) = authority.issue("server"), authority.issue("other")
    cases = [
        ((tmp_path / "no.pem", key, None), f"WAREHOUSE_TLS_CERTIFICATE: {tmp_path}/no.pem can't be read: No such file"),
        ((certificate, tmp_path / "no.key", None), f"WAREHOUSE_TLS_KEY: {tmp_path}/no.key can't be read: No such file"),
        ((certificate, tmp_path, None), f"WAREHOUSE_TLS_KEY: {tmp_path} can't be read: Is a directory"),
        (
            (certificate, certificate, None),
            f"WAREHOUSE_TLS_KEY: {certificate} can't be used: it holds no PEM private key",
        ),
        ((key, key, None), f"WAREHOUSE_TLS_CERTIFICATE: {key} can't be used: it holds no PEM certificate"),
        (
            (certificate, other_key, None),
            f"WAREHOUSE_TLS_KEY: {other_key} is not the key of the certificate {certificate}",
        ),
        ((certificate, key, key), f"WAREHOUSE_TLS_CLIENT_CA: {key} can't be used: it holds no PEM certificate"),
    ]
    for (pem, key_path, client_ca), said in cases:
        settings = warehouse_settings.WarehouseSettings(
            database_url="mysql://u@h/x", tls_certificate=pem, tls_key=key_path, tls_client_ca=client_ca
        )
        [reason] = settings.reasons_not_to_serve()
        assert reason.startswith(said)
    given = {"WAREHOUSE_TLS_CERTIFICATE": str(tmp_path / "no.pem"), "WAREHOUSE_TLS_KEY": str(key)}
    ended = end_of("warehouse", "serve", settings=of_both("mysql://u@h/x", "") | given)
    assert (ended.status, len(ended.lines)) == (Exit.SETTINGS, 2)
    assert ended.lines[1].startswith(f"  {cases[0][1]}")


def test_a_command_asks_only_for_what_it_uses(orders_database_url: str, warehouse_database_url: str) -> None:
    orders = {"ORDERS_DATABASE_URL": orders_database_url}
    assert end_of("order_gateway", "migrate", settings=orders).status == Exit.DONE
    warehouse = {"WAREHOUSE_DATABASE_URL": warehouse_database_url, "WAREHOUSE_LISTEN": "0.0.0.0:50051"}
    for command in ("migrate", "audit"):
        assert end_of("warehouse", command, settings=warehouse).status == Exit.DONE
    ended = end_of("order_gateway", "serve", settings=orders)
    assert ended.status == Exit.SETTINGS
    assert "set ORDERS_API_KEYS" in ended.lines[1]


def test_a_warehouse_that_is_not_there_is_told_soon(orders_database_url: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    ended = end_of("warehouse", "load-demo", "--target", nobody, settings={})
    assert ended.status == Exit.NEEDED
    assert f"the warehouse at {nobody} (--target)" in ended.told()
    assert "Connection refused" in ended.told()
    assert time.monotonic() - started < 8
    settings = of_both("", orders_database_url) | {"ORDERS_WAREHOUSE_TARGET": nobody}
    ended = end_of("order_gateway", "audit", settings=settings)
    assert ended.status in (Exit.DONE, Exit.NEEDED)
    assert ended.status == Exit.DONE or f"{nobody} (ORDERS_WAREHOUSE_TARGET)" in ended.told()


def test_help_tells_what_the_exit_statuses_mean() -> None:
    for cli in (warehouse_cli, order_gateway_main.cli):
        for command in ([], ["serve"], ["migrate"], ["audit"]):
            shown = " ".join(CliRunner().invoke(cli, [*command, "--help"], env={"COLUMNS": "300"}).output.split())
            assert EXIT_STATUSES in shown


async def test_the_connections_that_a_warehouse_keeps_are_those_that_its_settings_know(
    warehouse_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_sessions(monkeypatch)
    least = warehouse_settings.SESSIONS_PINNED + 1
    async with serving(warehouse_database_url, database={"pool_size": least}) as calls, asyncio.timeout(20):
        await calls.keep({(1, 1): 5})
        await calls.hold((1, 1, 1))
        assert await calls.level() == (5, 1)
    assert len(made) == warehouse_settings.SESSIONS_PINNED


async def test_the_connections_that_an_order_gateway_keeps_are_those_that_its_settings_know(
    orders_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_sessions(monkeypatch)
    # A test's process is not one that only serves from here on.
    monkeypatch.setattr(order_gateway_main, "calm_garbage_collector", lambda: None)
    settings = OrdersSettings.model_validate(
        {
            "database_url": orders_database_url,
            "profile": "development",
            "listen": f"127.0.0.1:{free_port()}",
            "warehouse_target": f"127.0.0.1:{free_port()}",
            "database": {"pool_size": orders_settings.SESSIONS_PINNED + 1},
        }
    )
    running = asyncio.create_task(order_gateway_main.run(settings))
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(http_answers, f"http://{settings.listen}/health"):
            assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert len(made) == orders_settings.SESSIONS_PINNED


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[DriverSession]:
    made: list[DriverSession] = []
    initialise = DriverSession.__init__

    def noted(self: DriverSession, *given: object, **named: object) -> None:
        made.append(self)
        initialise(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(DriverSession, "__init__", noted)
    return made


def test_proxies_that_the_environment_names_do_not_stand_between_our_own_services(
    processes: Processes, warehouse_database_url: str, orders_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        # Both wait until their probes have found the service healthy.
        _, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_WORKERS": "2"})
        _, base_url = processes.order_gateway(orders_database_url, target.replace("127.0.0.1", "localhost"))
        assert http_answers(f"{base_url}/ready")
