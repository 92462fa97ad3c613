"""What `make run`, `make migrate` and `make audit` do: the whole system on one machine, for development.

python -m development.runner run --data-dir .local --grpc-port 50051 --http-port 3000
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn

import typer
from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from development.free_ports import free_port
from development.local_server import LocalServer, ServerDidNotStart
from development.private_files import append_private, write_private
from development.server_programs import Flavour, ServerNotInstalled
from development.service_process import (
    ServiceDidNotStart,
    ServiceProcess,
    grpc_is_serving,
    http_answers,
)
from development.supervision import Startable, Supervised
from service_kit.child_process import start_tethered, stop
from service_kit.database.database import service_database_url
from service_kit.database.login import SafeConnection
from service_kit.database.migrating import Service, upgrade
from service_kit.database_url import BadDatabaseUrl, read_database_url

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
DEVELOPMENT_API_KEY = "order-service-api-key"
PORT_WAIT_SECONDS = 5
"""How long a port may still be held by services that are just stopping."""
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 30
_WATCH_SECONDS = 0.1
Module = Literal["warehouse", "order_gateway"]
_DATABASES: Mapping[Module, tuple[str, Service]] = {
    "warehouse": ("WAREHOUSE_DATABASE_URL", "warehouse"),
    "order_gateway": ("ORDERS_DATABASE_URL", "orders"),
}
"""The setting that names a module's database, and what that is called."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, rich_markup_mode=None)
DataDir = Annotated[Path, typer.Option(help="folder of the private database server and of the logs")]


class Failure(Exception):
    """Something that the person at the keyboard must put right; the message says what and how."""


class Stopping(BaseException):
    """Ctrl-C or SIGTERM."""


class DatabaseUrls(NamedTuple):
    """How to reach the database server.

    Attributes:
        owner: for who makes and changes tables.
        warehouse: for that service and its audit.
        orders: likewise.
    """

    owner: str
    warehouse: str
    orders: str


@dataclass(frozen=True)
class Plan:
    """What to run where."""

    data_dir: Path
    grpc_port: int
    http_port: int
    gateway: str = "grpc"
    workers: int = 1
    flavour: Flavour | None = None

    @property
    def target(self) -> str:
        """The gRPC address."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def base_url(self) -> str:
        """The HTTP address."""
        return f"http://{HOST}:{self.http_port}"

    def environment(self, module: Module, urls: DatabaseUrls) -> dict[str, str]:
        """The environment of a service; what people have set about its database themselves stays.

        It knows of no other's database.
        """
        name, service = _DATABASES[module]
        others = {other for other, _ in _DATABASES.values()} - {name}
        return {
            name: service_database_url(urls.warehouse if service == "warehouse" else urls.orders, service),
            **{name: value for name, value in os.environ.items() if name not in others},
            "PYTHONUNBUFFERED": "1",
            "WAREHOUSE_LISTEN": self.target,
            "WAREHOUSE_WORKERS": str(self.workers),
            "WAREHOUSE_GATEWAY": self.gateway,
            "ORDERS_LISTEN": f"{HOST}:{self.http_port}",
            "ORDERS_WAREHOUSE_TARGET": self.target,
            "ORDERS_PROFILE": "development",
        }

    def service(
        self,
        name: str,
        module: Module,
        urls: DatabaseUrls,
        is_healthy: Callable[[], bool],
        *,
        log: str | None = None,
    ) -> ServiceProcess:
        """One of the two services as a process, not started yet; its log has the module's name unless one is given."""
        return ServiceProcess(
            name,
            [sys.executable, "-m", module, "serve"],
            is_healthy=is_healthy,
            environment=self.environment(module, urls),
            log_path=self.data_dir / "logs" / f"{module if log is None else log}.log",
            directory=ROOT,
        )


@app.command()
def run(
    data_dir: DataDir = Path(".local"),
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 50051,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    gateway: Annotated[Literal["grpc", "queued", "auto"], typer.Option(help="how orders reach the warehouse")] = "grpc",
    workers: Annotated[int, typer.Option(min=1, max=64, help="warehouse processes")] = 1,
    flavour: Annotated[Flavour | None, typer.Option(help="the private database server")] = None,
) -> None:
    """Start everything, keep it alive, stop it on Ctrl-C."""
    plan = Plan(data_dir.resolve(), grpc_port, http_port, gateway, workers, flavour)
    _stop_on_signals()
    with _explained(), ExitStack() as cleanup:
        try:
            supervised = _start_all(plan, cleanup)
            while True:
                for one in supervised:
                    one.look(time.monotonic(), _say)
                time.sleep(_WATCH_SECONDS)
        except Stopping:
            _ignore_signals()
            _say("stopping")
    _say("stopped")


@app.command()
def migrate(data_dir: DataDir = Path(".local")) -> None:
    """Bring both databases to the newest schema."""
    _stop_on_signals()
    with _explained(), _database(data_dir.resolve(), make_new=True) as urls:
        _migrate(Plan(data_dir, 1, 1), urls.owner)
        _say("both databases are at the newest schema")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def audit(context: typer.Context, data_dir: DataDir = Path(".local")) -> None:
    """Check the invariants of both services; further arguments (--repair, --dry-run, --since) go to their audits."""
    _stop_on_signals()
    with _explained(), _database(data_dir.resolve(), make_new=False) as urls:
        # Orders are compared with what the warehouse says: one is started for it, whether another one runs or not.
        plan = Plan(data_dir.resolve(), free_port(), 1)
        warehouse = plan.service("warehouse", "warehouse", urls, lambda: grpc_is_serving(plan.target), log="audit")
        try:
            warehouse.launch()
            # The warehouse's own check has no notion of orders, and so none of when they were made.
            outcomes = [_run_audit("warehouse", plan, urls, _without_option(context.args, "--since"))]
            warehouse.wait_until_healthy(START_TIMEOUT_SECONDS)
            outcomes.append(_run_audit("order_gateway", plan, urls, context.args))
        finally:
            warehouse.stop(STOP_TIMEOUT_SECONDS)
        raise SystemExit(max(outcomes))


def _without_option(arguments: list[str], name: str) -> list[str]:
    """The arguments but for an option and its value."""
    kept, values = [], iter(arguments)
    for argument in values:
        if argument == name:
            next(values, None)
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def _run_audit(module: Module, plan: Plan, urls: DatabaseUrls, arguments: list[str]) -> int:
    command = [sys.executable, "-m", module, "audit", *arguments]
    return subprocess.run(command, env=plan.environment(module, urls), cwd=ROOT, check=False).returncode


def _start_all(plan: Plan, cleanup: ExitStack) -> list[Supervised]:
    """Start one thing after the other, say so, and note in `cleanup` how to stop it."""
    for port, name in ((plan.grpc_port, "GRPC_PORT"), (plan.http_port, "HTTP_PORT")):
        _wait_for_port(port, name)
    urls, watched = _start_database(plan, cleanup)
    _say("migrating the databases")
    _migrate(plan, urls.owner)

    warehouse = plan.service("warehouse", "warehouse", urls, lambda: grpc_is_serving(plan.target))
    health_url = f"{plan.base_url}/api/v1/health"
    orders = plan.service("order gateway", "order_gateway", urls, lambda: http_answers(health_url))
    _say("starting the warehouse and the order gateway")
    for service in (warehouse, orders):
        cleanup.callback(service.stop, STOP_TIMEOUT_SECONDS)
        service.launch()
    warehouse.wait_until_healthy(START_TIMEOUT_SECONDS)
    _say("loading demo data")
    _load_demo_data(plan, urls)
    orders.wait_until_healthy(START_TIMEOUT_SECONDS)
    _say(
        f"ready  grpc {plan.target}  http {plan.base_url}  api-key {DEVELOPMENT_API_KEY}  "
        f"logs {_short(plan.data_dir / 'logs')}  (Ctrl-C stops everything)",
        mark="",
    )
    everything: list[Startable] = [*watched, warehouse, orders]
    return [Supervised(process) for process in everything]


def _start_database(plan: Plan, cleanup: ExitStack) -> tuple[DatabaseUrls, list[LocalServer]]:
    if existing := os.environ.get("DATABASE_URL"):
        _say("using the database server of DATABASE_URL")
        _check_server(existing)
        return DatabaseUrls(existing, existing, existing), []
    _say("starting the database server")
    server = LocalServer(plan.data_dir / "database", plan.flavour, report=_say)
    cleanup.callback(server.stop)
    server.start()
    return _publish(plan.data_dir, server), [server]


@contextmanager
def _database(data_dir: Path, *, make_new: bool) -> Iterator[DatabaseUrls]:
    """The URLs of the server that `run` uses; a private one that is not running is started for a while."""
    if existing := os.environ.get("DATABASE_URL"):
        _check_server(existing)
        yield DatabaseUrls(existing, existing, existing)
        return
    if running := _running_server(data_dir):
        yield running
        return
    if not make_new and not (data_dir / "database" / "data").exists():
        raise Failure(
            f"There is no database in {data_dir} yet: begin with `make run`, or set DATA_DIR or DATABASE_URL."
        )
    with LocalServer(data_dir / "database", report=_say) as server:
        yield _publish(data_dir, server)


def _running_server(data_dir: Path) -> DatabaseUrls | None:
    published = _published(data_dir)
    if not all(path.exists() for path in published):
        return None
    urls = DatabaseUrls(*(path.read_text().strip() for path in published))
    try:
        for url in urls:
            _check_server(url)
    except Failure:
        return None
    return urls


def _publish(data_dir: Path, server: LocalServer) -> DatabaseUrls:
    urls = DatabaseUrls(server.url, server.service_url("warehouse"), server.service_url("orders"))
    for path, url in zip(_published(data_dir), urls, strict=True):
        write_private(path, f"{url}\n")
    return urls


def _published(data_dir: Path) -> list[Path]:
    return [data_dir / name for name in ("database-url", "warehouse-database-url", "orders-database-url")]


def _check_server(url: str) -> None:
    """Raises: Failure if nobody answers at `url`."""
    try:
        address = read_database_url(url, needs_database=False)
        SafeConnection(
            host=address.url.host or HOST,
            port=address.url.port or 3306,
            user=address.url.username,
            password=str(address.url.password or ""),
            connect_timeout=5,
            ssl=address.tls_context(),
        ).close()
    except Exception as error:
        raise Failure(
            f"The database server of DATABASE_URL can't be used: {error}\n"
            "It must look like mysql://user:password@host:port; unset it to have a private server started."
        ) from error


def _migrate(plan: Plan, database_url: str) -> None:
    # Not through the services' own commands, which do the same: each would spend seconds on its imports.
    urls = DatabaseUrls(database_url, database_url, database_url)
    for module, (name, service) in _DATABASES.items():
        try:
            upgrade(plan.environment(module, urls)[name], service)
        except (BadDatabaseUrl, SQLAlchemyError, CommandError) as error:
            raise Failure(f"The database of {name} can't be brought to the newest schema: {error}") from error


def _load_demo_data(plan: Plan, urls: DatabaseUrls) -> None:
    log_path = plan.data_dir / "logs" / "load-demo.log"
    log_path.unlink(missing_ok=True)
    with append_private(log_path) as log:
        process = start_tethered(
            [sys.executable, "-m", "warehouse", "load-demo", "--target", plan.target],
            output=log,
            environment=plan.environment("warehouse", urls),
            directory=ROOT,
        )
        try:
            status = process.wait()
        finally:
            stop(process, STOP_TIMEOUT_SECONDS)
    if status != 0:
        tail = log_path.read_text(errors="replace")[-2000:]
        raise Failure(f"`python -m warehouse load-demo` ended with status {status} and said:\n{tail}")


def _wait_for_port(port: int, name: str) -> None:
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    while not _is_free(port):
        if time.monotonic() > deadline:
            raise Failure(
                f"Port {port} is taken by another program: stop that one, or choose another port with {name}, "
                f"as in `make run {name}={port + 1 if port < 65535 else port - 1}`."
            )
        time.sleep(_WATCH_SECONDS)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what people can put right into a message and status 1, and an interruption into status 0."""
    try:
        yield
    except (Failure, ServerNotInstalled, ServerDidNotStart, ServiceDidNotStart) as error:
        _say(str(error), mark="")
        raise SystemExit(1) from error
    except Stopping:
        raise SystemExit(0) from None


def _stop_on_signals() -> None:
    def interrupt(_number: int, _frame: object) -> NoReturn:
        _ignore_signals()
        raise Stopping

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _say(text: str, mark: str = "  - ") -> None:
    try:
        print(f"{mark}{text}", flush=True)
    except BrokenPipeError:  # whoever read our output is gone; stopping in good order matters more
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of this process


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    app(args=arguments)


if __name__ == "__main__":
    main()
