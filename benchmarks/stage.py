"""Everything that runs during a benchmark: database, proxy, the warehouse and its yardsticks, in one folder."""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from sqlalchemy.engine import make_url

from benchmarks import database
from benchmarks.generator import BenchmarkFailed
from benchmarks.processors import family_cpu_seconds
from benchmarks.trees import Tree, run_python, this_tree
from benchmarks.workloads import Server
from development.free_ports import free_port
from development.local_server import LocalServer, LocalServerSettings
from development.service_process import (
    NO_PROXY,
    ServiceDidNotStart,
    ServiceProcess,
    grpc_is_serving,
    http_answers,
)

ROUND_TRIP_MS = 2.0
NAIVE_CONNECTIONS = 8
"""The best of 4, 8, 16 and 32: more of them only wait for the same row."""
PROBE_TIMEOUT_SECONDS = 2.0
AUDIT_TIMEOUT_SECONDS = 600

_DATABASES = {
    Server.WAREHOUSE: "bench_warehouse",
    Server.WAREHOUSE_FAR: "bench_warehouse_far",
    Server.WAREHOUSE_OLD: "bench_warehouse_old",
    Server.NAIVE: "bench_naive",
    Server.NAIVE_FAR: "bench_naive_far",
}
_GATEWAYS = {
    Server.ORDERS: ("bench_orders", "grpc"),
    Server.ORDERS_QUEUED: ("bench_orders_queued", "queued"),
    Server.ORDERS_DEAD: ("bench_orders_dead", "grpc"),
}
"""The database and the mode of each order gateway."""
SETTLE_TIMEOUT_SECONDS = 60
_FAR = (Server.WAREHOUSE_FAR, Server.NAIVE_FAR)
_REAL = (Server.WAREHOUSE, Server.WAREHOUSE_FAR, Server.WAREHOUSE_OLD)


def private_database(folder: Path, report: Callable[[str], None]) -> LocalServer:
    """A database server with durable settings, for one run; use it with `with`."""
    return LocalServer(folder / "database", settings=LocalServerSettings(buffer_pool_mib=2048), report=report)


class Stage:
    """Starts what is asked for when it is first asked for, and stops all of it at the end; use it with `with`.

    Args:
        folder: for logs and profiles; it should be empty.
        report: told what takes long.
        server: the private database server, running.
        tree: whose services are started; this checkout's by default.
        mark: goes into the names of databases and logs, to tell those of two trees apart.
        profile: run the warehouse under cProfile, into `folder`.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None],
        server: LocalServer,
        *,
        tree: Tree | None = None,
        mark: str = "",
        profile: bool = False,
        closed_reservations: int = database.CLOSED_RESERVATIONS,
    ) -> None:
        self.folder = folder
        self.targets: dict[Server, str] = {}
        self._report = report
        self._profile = profile
        self._closed_reservations = closed_reservations
        self._stack = ExitStack()
        self._processes: dict[str, ServiceProcess] = {}
        self._database = server
        self._tree = tree or this_tree()
        self._mark = mark

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def target(self, server: Server) -> str:
        """host:port of the server, which runs when this returns. Raises: BenchmarkFailed."""
        if server not in self.targets:
            self._report(f"starting {server}")
            self.targets[server] = self._start(server)
        return self.targets[server]

    def database_facts(self) -> dict[str, str]:
        """What the database server says about itself."""
        return database.server_facts(f"{self._database.url}/information_schema")

    def cpu_seconds(self, server: Server, generator_pid: int) -> dict[str, float]:
        """Processor time used so far by what a call to `server` keeps busy."""
        used = {
            "generator": family_cpu_seconds(generator_pid),
            "server": family_cpu_seconds(self._processes[server].pid),
        }
        if server in (Server.ORDERS, Server.ORDERS_QUEUED):
            used["warehouse"] = family_cpu_seconds(self._processes[Server.WAREHOUSE].pid)
        if server in _DATABASES or server in _GATEWAYS:
            used["database"] = family_cpu_seconds(self._database.pid)
        if server in _FAR:
            used["proxy"] = family_cpu_seconds(self._processes["proxy"].pid)
        return used

    def audit(self) -> dict[str, str]:
        """Let the warehouse check the invariants in all databases it wrote to: an empty text, or what is wrong.

        The keys are the names of the servers, with the stage's mark.
        """
        found = {}
        for server in _REAL:
            if server in self.targets:
                self._report(f"auditing the database of {server}{self._mark}")
                settings = {
                    **self._tree.settings.warehouse,
                    "WAREHOUSE_DATABASE_URL": self._database_url(server, far=False),
                }
                command = ["-m", "warehouse", "audit"]
                done = run_python(self._tree.directory, command, settings, AUDIT_TIMEOUT_SECONDS)
                found[f"{server}{self._mark}"] = "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
        return found

    def _start(self, server: Server) -> str:
        if server in _DATABASES:
            self._make_database(server)
        if server in _GATEWAYS or server is Server.HTTP_ECHO:
            return self._start_http(server)
        target = f"127.0.0.1:{free_port()}"
        if server in _REAL:
            settings = {
                **self._tree.settings.warehouse,
                "WAREHOUSE_DATABASE_URL": self._database_url(server, far=server in _FAR),
                "WAREHOUSE_LISTEN": target,
            }
            self._launch(server, self._warehouse_command(server), settings, lambda: grpc_is_serving(target))
        elif server is Server.ECHO:
            self._launch(server, ["-m", "benchmarks.echo", target], {}, lambda: _connects(target))
        else:
            settings = {
                "WAREHOUSE_DATABASE_URL": self._database_url(server, far=server in _FAR),
                "NAIVE_CONNECTIONS": str(NAIVE_CONNECTIONS),
            }
            self._launch(server, ["-m", "benchmarks.naive", target], settings, lambda: _connects(target))
        return target

    def _start_http(self, server: Server) -> str:
        target = f"127.0.0.1:{free_port()}"
        if server is Server.HTTP_ECHO:
            self._launch(server, ["-m", "benchmarks.http_echo", target], {}, lambda: _accepts_at(target))
            return target
        name, mode = _GATEWAYS[server]
        self._report(f"making the database {name}")
        is_dead = server is Server.ORDERS_DEAD
        settings = {
            **self._tree.settings.orders,
            "ORDERS_DATABASE_URL": self._orders_url(server),
            "ORDERS_LISTEN": target,
            "ORDERS_WAREHOUSE_TARGET": f"127.0.0.1:{free_port()}" if is_dead else self.target(Server.WAREHOUSE),
            "ORDERS_GATEWAY": mode,
        }
        self._tree.migrate_orders(settings)
        self._launch(
            server, self._command(server, "order_gateway"), settings, lambda: http_answers(f"http://{target}/health")
        )
        return target

    def settle(self, server: Server) -> None:
        """Wait until the orders of a gateway are reserved, so that they don't burden what is measured next."""
        if server is Server.ORDERS_QUEUED:
            database.wait_for_orders(self._orders_url(server), SETTLE_TIMEOUT_SECONDS)

    def _orders_url(self, server: Server) -> str:
        url = make_url(self._database.url).set(database=_GATEWAYS[server][0] + self._mark)
        return url.render_as_string(hide_password=False)

    def _warehouse_command(self, server: Server) -> list[str]:
        return self._command(server, "warehouse")

    def _command(self, server: Server, module: str) -> list[str]:
        if not self._profile:
            return ["-m", module, "serve"]
        return ["-m", "cProfile", "-o", str(self.folder / f"{server}.prof"), "-m", module, "serve"]

    def _make_database(self, server: Server) -> None:
        url = self._database_url(server, far=False)
        self._report(f"filling the database of {server}")
        self._tree.make_stocked(url)
        if server is Server.WAREHOUSE_OLD:
            database.add_history(
                url, self._closed_reservations, lambda done: self._report(f"{done:,} closed reservations written")
            )

    def _database_url(self, server: Server, *, far: bool) -> str:
        url = make_url(self._database.url).set(database=_DATABASES[server] + self._mark)
        if far:
            url = url.set(port=self._proxy_port())
        return url.render_as_string(hide_password=False)

    def _proxy_port(self) -> int:
        if "proxy" not in self._processes:
            port = free_port()
            arguments = ["-m", "benchmarks.proxy", str(port), str(self._database.port), str(ROUND_TRIP_MS)]
            self._launch("proxy", arguments, {}, lambda: _accepts(port))
            self._far_port = port
        return self._far_port

    def _launch(
        self, name: str, arguments: list[str], settings: Mapping[str, str], is_healthy: Callable[[], bool]
    ) -> None:
        process = ServiceProcess(
            name,
            [sys.executable, *arguments],
            is_healthy=is_healthy,
            environment={**os.environ, **settings},
            log_path=self.folder / f"{name}{self._mark}.log",
            directory=self._tree.directory,
        )
        self._stack.callback(process.stop)
        self._processes[name] = process
        try:
            process.start()
        except ServiceDidNotStart as error:
            raise BenchmarkFailed(str(error)) from error


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PROBE_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def _accepts_at(target: str) -> bool:
    return _accepts(int(target.rpartition(":")[2]))


def _connects(target: str) -> bool:
    with grpc.insecure_channel(target, NO_PROXY) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PROBE_TIMEOUT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
        return True
