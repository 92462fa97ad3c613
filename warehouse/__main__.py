"""The command line of the warehouse: `python -m warehouse serve|migrate|audit|load-demo`."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
import uvloop

from service_kit import quiet_grpc_core  # noqa: F401  # before anything that imports grpc
from service_kit.database.problems import database_explained
from service_kit.database_url import name_of_setting
from service_kit.logging import configure_logging
from service_kit.progress import Progress
from service_kit.settings import load_settings_or_exit, log_risks
from service_kit.starting import EXIT_STATUSES, Exit, NotStarted, explained
from stockwarden_client import WarehouseError
from warehouse import workers as worker_processes
from warehouse.audit.checking import AuditReport, Check, audit, drifted_levels, repair
from warehouse.demo import load_demo
from warehouse.server import serve as serve_one
from warehouse.settings import WarehouseSettings
from warehouse.starting import SERVICE
from warehouse.starting import check as check_start

app = typer.Typer(
    help="The warehouse: holds, sells and releases stock. Configured by environment variables WAREHOUSE_*.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _settings(*, to_serve: bool = False) -> WarehouseSettings:
    settings = load_settings_or_exit(WarehouseSettings, to_serve=to_serve)
    configure_logging("warehouse", settings.log_level)
    return settings


@contextmanager
def _explained(settings: WarehouseSettings) -> Iterator[None]:
    with explained(), database_explained(settings.database_url, SERVICE):
        yield


@app.command(epilog=EXIT_STATUSES)
def serve(
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes that share the port.")] = None,
    worker_of: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Serve gRPC until SIGTERM (see WAREHOUSE_LISTEN, WAREHOUSE_DATABASE_URL)."""
    settings = _settings(to_serve=True)
    if not worker_of:
        log_risks(settings)
    count = workers or settings.workers
    with _explained(settings):
        if worker_of:
            if worker_of != os.getppid():
                raise NotStarted("--worker-of is not for people: several processes share a port by --workers")
            uvloop.run(serve_one(settings, shares_port=True))
        elif count > 1:
            worker_processes.supervise(
                settings.listen,
                count,
                settings.stop_grace_seconds,
                settings.metrics_listen,
                lambda: asyncio.run(check_start(settings)),
            )
        else:
            uvloop.run(serve_one(settings))


@app.command(epilog=EXIT_STATUSES)
def migrate() -> None:
    """Make the database if it is missing and bring its tables up to date."""
    # A sixth of all imports, for this command alone.
    from alembic.util.exc import CommandError

    from service_kit.database import migrating

    settings = _settings()
    with _explained(settings):
        try:
            migrating.upgrade(settings.database_url, "warehouse")
        except CommandError as error:
            setting = name_of_setting(SERVICE.prefix)
            raise NotStarted(
                f"{setting}: {error}: the tables are newer than this program; install a newer one"
            ) from error


@app.command(name="audit", epilog=EXIT_STATUSES)
def audit_command(
    repair_drift: Annotated[
        bool, typer.Option("--repair", help="Mend counters from the reservations, leaving a movement.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what --repair would do.")] = False,
) -> None:
    """Check invariants 1 to 6 against the database.

    It ends with status 3 if its time (WAREHOUSE_AUDIT__TIME_LIMIT_SECONDS) was over before everything was checked.
    """
    settings = _settings()
    with _explained(settings):
        report = _audited(settings)
        if not report.is_clean and (repair_drift or dry_run):
            drifted = asyncio.run(drifted_levels(settings.database_url, settings.audit.slice_rows))
            for product_id, warehouse_id in drifted:
                typer.echo(f"repair: the counters of product {product_id} in warehouse {warehouse_id} are corrected")
            if not dry_run:
                typer.echo("Repairing ...")
                repaired = asyncio.run(repair(settings.database_url, settings.audit.slice_rows))
                typer.echo(f"Repaired {repaired} stock levels. Checking again ...")
                report = _audited(settings)
        if not report.is_complete:
            raise NotStarted(f"{report.summary}; give it more with WAREHOUSE_AUDIT__TIME_LIMIT_SECONDS")
    raise typer.Exit(Exit.DONE if report.is_clean else Exit.FOUND)


def _audited(settings: WarehouseSettings) -> AuditReport:
    progress = Progress("slices")

    def told(check: Check) -> None:
        progress.end()
        mark = "WRONG" if check.findings else "ok   " if check.is_complete else "?    "
        typer.echo(f"{mark}  {check.title}")
        for finding in check.findings:
            typer.echo(f"         {finding}")

    try:
        report = asyncio.run(audit(settings.database_url, settings.audit, progress, told))
    finally:
        progress.end()
    typer.echo(report.summary)
    return report


@app.command(name="load-demo", epilog=EXIT_STATUSES)
def load_demo_command(
    target: Annotated[str, typer.Option(help="host:port of the warehouse")] = "127.0.0.1:50051",
    api_key: Annotated[str, typer.Option(help="a key with the role admin, if keys are configured")] = "",
) -> None:
    """Load the demo catalogue: products 1-3 and 100 units of each in warehouses 1 and 2. Repeating is safe."""
    with explained():
        try:
            asyncio.run(load_demo(target, api_key))
        except WarehouseError as error:
            raise NotStarted(f"the warehouse at {target} (--target): {error.reason}: {error}") from error
    typer.echo("Demo data is there: products 1, 2 and 3 in warehouses 1 and 2.")


if __name__ == "__main__":
    app(prog_name="python -m warehouse")
