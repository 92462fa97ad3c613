"""The command line of the order service: `python -m order_gateway serve|migrate|audit|reconcile|why`."""

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog
import typer
import uvloop
from aiohttp import web

from order_gateway import operator_commands
from order_gateway.bootstrap import Instruments, Service, database_of, opened
from order_gateway.http.guards.slots import connection_limits
from order_gateway.http.wire.serving import EnvelopeRunner
from order_gateway.metrics import GatewayMetrics, connection_gauge
from order_gateway.settings import OrdersSettings
from order_gateway.starting import SERVICE, failures_explained
from service_kit.database.character_sets import report_wrong_columns
from service_kit.database.problems import check_database
from service_kit.database_url import name_of_setting
from service_kit.descriptors import room_for
from service_kit.garbage import calm_garbage_collector
from service_kit.logging import configure_logging
from service_kit.ports import address_problem, require_free, split_address
from service_kit.settings import load_settings_or_exit, log_risks
from service_kit.starting import EXIT_STATUSES, NotStarted
from service_kit.tracing import configure_tracing

LINGERING_SECONDS = 2.0
"""How long a body is read on that nobody wants, so that the client gets to read why."""
log = structlog.get_logger("order_gateway")
cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The order service. Configured by environment variables ORDERS_*.",
    epilog=EXIT_STATUSES,
)
operator_commands.add_to(cli)


def _settings(*, to_serve: bool = False) -> OrdersSettings:
    settings = load_settings_or_exit(OrdersSettings, to_serve=to_serve)
    configure_logging("order_gateway", settings.log_level)
    return settings


@cli.command(epilog=EXIT_STATUSES)
def serve() -> None:
    """Serve HTTP until SIGTERM or Ctrl-C; what can be set is in the environment, as ORDERS_..."""
    settings = _settings(to_serve=True)
    log_risks(settings)
    with failures_explained(settings):
        uvloop.run(run(settings))


@cli.command(epilog=EXIT_STATUSES)
def migrate() -> None:
    """Bring the orders database to the newest schema, creating it if it is missing."""
    # Nothing else needs Alembic.
    from alembic.util.exc import CommandError

    from service_kit.database.migrating import upgrade

    settings = _settings()
    with failures_explained(settings):
        try:
            upgrade(settings.database_url, "orders")
        except CommandError as error:
            setting = name_of_setting(SERVICE.prefix)
            raise NotStarted(
                f"{setting}: {error}: the tables are newer than this program; install a newer one"
            ) from error


async def run(settings: OrdersSettings) -> None:
    """Put the service together and run it until a signal comes.

    Raises: NotStarted: the port is taken, or the database is away, or will not do as it is.
    """
    require_free("ORDERS_LISTEN", settings.listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(database_of(settings))
        await check_database(database, SERVICE, must_answer=True)
        tracing = configure_tracing("order_gateway")
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        instruments = Instruments(settings, database, tracing)
        core = await stack.enter_async_context(opened(settings, database, instruments.calls))
        service = Service(core, instruments)
        await service.load()
        app = service.application()
        await stack.enter_async_context(service.at_work())
        await report_wrong_columns(database)
        await _listen(app, settings, stack, instruments.metrics)
        calm_garbage_collector()
        await stop.wait()
        log.info("stopping")


async def _listen(
    app: web.Application, settings: OrdersSettings, stack: AsyncExitStack, metrics: GatewayMetrics
) -> None:
    limits = connection_limits(settings)
    if (room := room_for(limits.connections_max)) < limits.connections_max:
        log.warning(
            "connections_max_lowered", to=room, setting="ORDERS_CONNECTIONS_MAX", why="ulimit -n allows no more"
        )
        limits = replace(limits, connections_max=room)
    runner = EnvelopeRunner(
        app,
        limits,
        metrics.limited.add,
        access_log=None,
        shutdown_timeout=settings.shutdown_grace_seconds,
        keepalive_timeout=settings.connection_idle_seconds_max,
        lingering_time=LINGERING_SECONDS,
    )
    metrics.add(connection_gauge(lambda: runner.connections.open))
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, *split_address(settings.listen)).start()
    except OSError as error:
        raise address_problem("ORDERS_LISTEN", settings.listen, error) from error
    log.info(
        "serving",
        address=settings.listen,
        profile=settings.profile,
        warehouse=settings.warehouse_target,
        background_roles=sorted(settings.background_roles),
    )


if __name__ == "__main__":
    cli()
