"""Composition root and command line of the order service."""

import asyncio
import gc
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog
import typer
import uvloop
from aiohttp import web
from alembic.util.exc import CommandError

from order_gateway import operator_commands as examining
from order_gateway.audit.checking import OrdersAudit
from order_gateway.audit.why import Explaining
from order_gateway.gateway.breaker import GuardedGateway
from order_gateway.gateway.grpc import GrpcGateway
from order_gateway.gateway.holdings import Holdings
from order_gateway.gateway.inventory import Inventory
from order_gateway.gateway.modes import Modes
from order_gateway.gateway.port import Mode
from order_gateway.gateway.standing import Standing, database_clock
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.config import ConfigRoutes
from order_gateway.http.dead_letters import DeadLetterRoutes
from order_gateway.http.events import Streams
from order_gateway.http.guards.slots import Slots, connection_limits
from order_gateway.http.health import HealthRoutes
from order_gateway.http.inventory import InventoryRoutes
from order_gateway.http.observing import MetricsRoutes, observe_middleware
from order_gateway.http.order_holds import OrderHolds
from order_gateway.http.order_list import OrderListRoutes
from order_gateway.http.orders import OrderRoutes
from order_gateway.http.payments import PaymentRoutes
from order_gateway.http.products import ProductRoutes
from order_gateway.http.reservations import ReservationRoutes
from order_gateway.http.why import WhyRoutes
from order_gateway.http.wire.serving import EnvelopeRunner
from order_gateway.metrics import PREFIX as PREFIX_OF_METRICS
from order_gateway.metrics import (
    GatewayMetrics,
    connection_gauge,
    mode_gauges,
    observed_calls,
    observed_steps,
    slots_gauge,
    standing_gauges,
)
from order_gateway.payments.callbacks import Callbacks
from order_gateway.pricing.basket import Basket, ProductPrices
from order_gateway.pricing.catalogue_reading import CatalogueSync, ReadingSettings
from order_gateway.pricing.price_catalogue import PriceCatalogue
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga
from order_gateway.settings import OrdersSettings
from order_gateway.starting import SERVICE, failures_explained
from order_gateway.storage.idempotency import IdempotencyStore
from order_gateway.storage.reading import Listing
from order_gateway.storage.refunds import RefundList
from order_gateway.storage.retention import Retention
from order_gateway.storage.store import Store, StoreSettings
from order_gateway.storage.watching import Watching
from order_gateway.wiring import payments, saga_settings
from service_kit.background import Background, Kept, end
from service_kit.database.character_sets import report_wrong_columns
from service_kit.database.database import Database
from service_kit.database.migrating import upgrade
from service_kit.database.problems import check_database
from service_kit.database_url import name_of_setting
from service_kit.descriptors import room_for
from service_kit.logging import configure_logging
from service_kit.ports import address_problem, require_free, split_address
from service_kit.settings import load_settings_or_exit, log_risks
from service_kit.starting import EXIT_STATUSES, NotStarted
from service_kit.tracing import configure_tracing
from warehouse.client import WarehouseClient

GC_THRESHOLD = 50_000
"""Objects made, less those gone, between two looks for cycles; 700 unless set."""
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
examining.add_to(cli)


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
        database = Database(settings.database_url, settings.database)
        stack.push_async_callback(database.close)
        await check_database(database, SERVICE, must_answer=True)
        tracing = configure_tracing("order_gateway")
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        metrics = GatewayMetrics(database, settings.metrics)
        observe = observed_calls(metrics, tracing)
        client = await stack.enter_async_context(WarehouseClient(settings.client_settings(), observe))
        calls = GrpcGateway(client, settings.batches)
        stack.push_async_callback(calls.close)
        gateway = GuardedGateway(calls, settings.breaker)
        modes = Modes(database, gateway, settings.gateway, settings.gateway_poll_seconds)
        await modes.load()
        metrics.add(*mode_gauges(modes))
        bounds = StoreSettings(settings.payment_window_seconds, settings.hold_grace_seconds)
        store = Store(database, bounds, settings.batches)
        stack.push_async_callback(store.close)
        taking = payments(settings)
        stack.push_async_callback(taking.close)
        metrics.add(*taking.measures)
        saga = Saga(store, gateway, taking, saga_settings(settings), modes.choose)
        standing = Standing(
            client, database_clock(database), calls.set_clock_ahead, every_seconds=settings.warehouse_look_seconds
        )
        metrics.add(*standing_gauges(standing))
        known = PriceCatalogue(database)
        reading = CatalogueSync(database, known, calls.catalogue, _reading_settings(settings))
        catalogue = ProductPrices(
            gateway,
            settings.price_cache_seconds,
            known,
            settings.price_deadline_seconds,
            settings.step_deadline_seconds,
            settings.catalogue_read_seconds,
        )
        basket = Basket(gateway, catalogue, settings.reserve_deadline_seconds, settings.currency_default)
        listing = Listing(database, settings.list_counted_max, settings.lists_at_once_max)
        watching = Watching(listing, settings.event_poll_seconds)
        background = Background()
        background.watch(*store.batchers, *calls.batchers)
        metrics.add(*background.measures(PREFIX_OF_METRICS))
        streams = Streams(store, listing, watching, settings, background)
        inventory = Inventory(client, settings.step_deadline_seconds, gateway.guarded)
        holds = OrderHolds(inventory, store, saga, PREFIX)
        intents = PendingSteps(database)
        relay = Relay(store, intents, saga, settings, observed_steps(metrics, tracing))
        holdings = Holdings(client, gateway.guarded, settings.step_deadline_seconds)
        explaining = Explaining(OrdersAudit(database, store, holdings, settings.audit), store, listing)
        operations = [
            *OrderRoutes(store, saga, basket, watching, PREFIX).operations(),
            *OrderListRoutes(store, listing, streams, PREFIX).operations(),
            *_payment_routes(saga, database, settings).operations(),
            *ReservationRoutes(inventory, holds, listing, PREFIX).operations(),
            *InventoryRoutes(inventory, holds, PREFIX).operations(),
            *ProductRoutes(inventory, PREFIX).operations(),
            *ConfigRoutes(modes, gateway, PREFIX).operations(),
            *HealthRoutes(
                database,
                gateway,
                PREFIX,
                lambda: modes.mode is Mode.GRPC,
                standing,
                background,
                settings.ready_seconds,
            ).operations(),
            *DeadLetterRoutes(intents, relay, PREFIX).operations(),
            *WhyRoutes(explaining, PREFIX).operations(),
        ]
        slots = Slots(settings, metrics.limited.add)
        metrics.add(slots_gauge(slots.taken))
        answers = IdempotencyStore(database, settings.idempotency_claim_seconds)
        app = make_app(
            operations,
            answers,
            settings,
            body_size_max_bytes=settings.body_size_max_bytes,
            routes=MetricsRoutes(metrics).routes(),
            observers=[observe_middleware(metrics, tracing)],
            background=background,
            slots=slots,
        )
        streams.attach(app)
        saga.nudge = relay.nudge
        for name, work in (
            ("breaker", gateway.watch),
            ("database", database.watch),
            ("mode", modes.run),
            ("catalogue", reading.run),
            ("standing", standing.run),
            ("retention", Retention(database, settings.retention).run),
        ):
            stack.push_async_callback(end, background.keep(name, work))
        relaying = background.keep("relay", relay.run, lambda: relay.is_stopping)
        stack.push_async_callback(_end, relay, relaying)
        await store.token()
        await report_wrong_columns(database)
        await _listen(app, settings, stack, metrics)
        _calm_garbage_collector()
        await stop.wait()
        log.info("stopping")


def _calm_garbage_collector() -> None:
    """What start-up made stays; requests make hardly any cycles, and looking for them often costs their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


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
    log.info("serving", address=settings.listen, profile=settings.profile, warehouse=settings.warehouse_target)


async def _end(relay: Relay, relaying: Kept) -> None:
    await relay.stop()
    await relaying.finish()


def _reading_settings(settings: OrdersSettings) -> ReadingSettings:
    return ReadingSettings(
        every_seconds=settings.catalogue_read_seconds,
        all_every_seconds=settings.catalogue_all_seconds,
        retry_seconds=min(settings.breaker.open_seconds_max, settings.catalogue_read_seconds),
        lease_seconds=settings.catalogue_lease_seconds,
    )


def _payment_routes(saga: Saga, database: Database, settings: OrdersSettings) -> PaymentRoutes:
    http = settings.payments.http
    callbacks = Callbacks(database, http.callback_tolerance_seconds)
    return PaymentRoutes(saga, RefundList(database, settings.list_counted_max), callbacks, http, PREFIX)


if __name__ == "__main__":
    cli()
