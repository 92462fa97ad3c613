"""Composition root and command line of the order service."""

import asyncio
import gc
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

import structlog
import typer
import uvloop
from aiohttp import web

from order_gateway.answers import Answers
from order_gateway.audit import OrdersAudit, OrdersRepair, OrdersReport
from order_gateway.basket import Basket, Catalogue
from order_gateway.gateway import GatewayFault, Mode
from order_gateway.gateway.breaker import GuardedGateway
from order_gateway.gateway.grpc import GrpcGateway
from order_gateway.gateway.holdings import Holdings
from order_gateway.gateway.inventory import Inventory
from order_gateway.gateway.modes import Modes
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.config import ConfigRoutes
from order_gateway.http.events import Streams
from order_gateway.http.health import HealthRoutes
from order_gateway.http.inventory import InventoryRoutes
from order_gateway.http.observing import MetricsRoutes, observe_middleware
from order_gateway.http.order_list import OrderListRoutes
from order_gateway.http.orders import OrderRoutes
from order_gateway.http.products import ProductRoutes
from order_gateway.http.reservations import ReservationRoutes
from order_gateway.http.serving import EnvelopeRunner
from order_gateway.intents import Intents
from order_gateway.known_products import KnownProducts
from order_gateway.listing import Listing
from order_gateway.metrics import GatewayMetrics, mode_gauges, observed_calls, observed_steps
from order_gateway.payments import Payments, PaymentSimulator
from order_gateway.relay import Relay
from order_gateway.retention import Retention
from order_gateway.saga import Saga, SagaSettings
from order_gateway.settings import OrdersSettings
from order_gateway.store import Store, StoreSettings
from order_gateway.watching import Watching
from service_kit.background import end, keep
from service_kit.character_sets import report_wrong_columns
from service_kit.database import Database, Fault
from service_kit.logging import configure_logging
from service_kit.migrating import upgrade
from service_kit.settings import load_settings_or_exit
from service_kit.tracing import configure_tracing
from warehouse.client import WarehouseClient

GC_THRESHOLD = 50_000
"""Objects made, less those gone, between two looks for cycles; 700 unless set."""
log = structlog.get_logger("order_gateway")
cli = typer.Typer(no_args_is_help=True, add_completion=False, help="The order service.")


@cli.command()
def serve() -> None:
    """Serve HTTP until SIGTERM or Ctrl-C; what can be set is in the environment, as ORDERS_..."""
    settings = load_settings_or_exit(OrdersSettings)
    configure_logging("order_gateway", settings.log_level)
    try:
        uvloop.run(run(settings))
    except Fault as fault:
        log.error("not_started", error=str(fault), cause=repr(fault.__cause__))  # noqa: TRY400 - no bug, no traceback
        raise typer.Exit(1) from fault


@cli.command()
def migrate() -> None:
    """Bring the orders database to the newest schema, creating it if it is missing."""
    settings = load_settings_or_exit(OrdersSettings)
    configure_logging("order_gateway", settings.log_level)
    upgrade(settings.database_url, "orders")


@cli.command()
def audit(repair: Annotated[bool, typer.Option("--repair", help="Finish the orders concerned.")] = False) -> None:
    """Check every order against the warehouse (invariant 7); exit with status 1 if one does not agree with it."""
    settings = load_settings_or_exit(OrdersSettings)
    configure_logging("order_gateway", settings.log_level)
    try:
        is_clean = asyncio.run(_audit(settings, repair=repair))
    except (GatewayFault, Fault) as fault:
        typer.echo(f"The audit needs the order database and the warehouse at {settings.warehouse_target}: {fault}.")
        raise typer.Exit(2) from fault
    raise typer.Exit(0 if is_clean else 1)


async def _audit(settings: OrdersSettings, *, repair: bool) -> bool:
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url, settings.database)
        stack.push_async_callback(database.close)
        client = await stack.enter_async_context(WarehouseClient(settings.client_settings()))
        gateway, holdings = GrpcGateway(client), Holdings(client)
        stack.push_async_callback(gateway.close)
        bounds = StoreSettings(settings.payment_window_seconds, settings.hold_grace_seconds)
        store = Store(database, bounds)
        stack.push_async_callback(store.close)
        checks = OrdersAudit(database, store, holdings)
        report = await checks.run()
        _print_audit(report)
        if report.findings and repair:
            saga = Saga(store, gateway, _payments(settings), _saga_settings(settings))
            relay = Relay(store, Intents(database), saga, settings)
            typer.echo(f"Finishing {len(report.findings)} orders ...")
            await OrdersRepair(database, store, relay, gateway, holdings).run(report.findings)
            report = await checks.run()
            _print_audit(report)
        return not report.findings


def _print_audit(report: OrdersReport) -> None:
    for finding in report.findings:
        order = finding.order
        typer.echo(f"order {order.id} ({order.state.status}, stock {order.state.stock}): {finding.problem}")
        for holding in finding.holdings:
            typer.echo(f"    reservation {holding.reservation_id} {holding.state}")
    wrong = f"{len(report.findings)} don't agree with the warehouse" if report.findings else "clean"
    typer.echo(f"orders: {wrong}; {report.checked} checked, {report.unfinished} still have a step to be done")


async def run(settings: OrdersSettings) -> None:
    """Put the service together and run it until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url, settings.database)
        stack.push_async_callback(database.close)
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
        saga = Saga(store, gateway, _payments(settings), _saga_settings(settings), modes.choose)
        known = KnownProducts(database)
        catalogue = Catalogue(gateway, settings.price_cache_seconds, known, settings.price_deadline_seconds)
        basket = Basket(gateway, catalogue, settings.reserve_deadline_seconds)
        listing = Listing(database, settings.list_counted_max)
        watching = Watching(listing, settings.event_poll_seconds)
        streams = Streams(store, listing, watching, settings)
        inventory = Inventory(client, settings.step_deadline_seconds, gateway.guarded)
        operations = [
            *OrderRoutes(store, saga, basket, watching, PREFIX).operations(),
            *OrderListRoutes(store, listing, streams, PREFIX).operations(),
            *ReservationRoutes(inventory, store, listing, PREFIX).operations(),
            *InventoryRoutes(inventory, PREFIX).operations(),
            *ProductRoutes(inventory, PREFIX).operations(),
            *ConfigRoutes(modes, gateway, PREFIX).operations(),
            *HealthRoutes(database, gateway, PREFIX, lambda: modes.mode is Mode.GRPC).operations(),
        ]
        answers = Answers(database, settings.idempotency_claim_seconds)
        app = make_app(
            operations,
            answers,
            settings,
            body_size_max_bytes=settings.body_size_max_bytes,
            routes=MetricsRoutes(metrics).routes(),
            observers=[observe_middleware(metrics, tracing)],
        )
        streams.attach(app)
        relay = Relay(store, Intents(database), saga, settings, observed_steps(metrics, tracing))
        saga.nudge = relay.nudge
        catalogue_pauses = (settings.catalogue_read_seconds, settings.breaker.open_seconds_max)
        for name, work in (
            ("breaker", gateway.watch),
            ("mode", modes.run),
            ("catalogue", partial(known.follow, calls.catalogue, *catalogue_pauses)),
            ("retention", Retention(database, settings.retention).run),
        ):
            stack.push_async_callback(end, keep(name, work))
        relaying = asyncio.create_task(relay.run())
        stack.push_async_callback(_end, relay, relaying)
        await store.token()
        await report_wrong_columns(database)
        await _listen(app, settings, stack)
        _calm_garbage_collector()
        await stop.wait()
        log.info("stopping")


def _calm_garbage_collector() -> None:
    """What start-up made stays; requests make hardly any cycles, and looking for them often costs their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


async def _listen(app: web.Application, settings: OrdersSettings, stack: AsyncExitStack) -> None:
    runner = EnvelopeRunner(app, access_log=None, shutdown_timeout=settings.shutdown_grace_seconds)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, _, port = settings.listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    await site.start()
    log.info("serving", address=settings.listen, profile=settings.profile, warehouse=settings.warehouse_target)


async def _end(relay: Relay, relaying: asyncio.Task[None]) -> None:
    await relay.stop()
    await relaying


def _payments(settings: OrdersSettings) -> Payments:
    return Payments(PaymentSimulator(settings.simulator), settings.payments)


def _saga_settings(settings: OrdersSettings) -> SagaSettings:
    return SagaSettings(
        hold_grace_seconds=settings.hold_grace_seconds,
        reserve_deadline_seconds=settings.reserve_deadline_seconds,
        step_deadline_seconds=settings.step_deadline_seconds,
        charge_timeout_seconds=settings.charge_timeout_seconds,
        lease_margin_seconds=settings.lease_margin_seconds,
        warehouse_changes_max=settings.warehouse_changes_max,
    )


if __name__ == "__main__":
    cli()
