"""Composition root: how settings become the parts of the order service, for `serve`, for the commands and for tests.

`opened` makes what all of them work with. `Service` is what `serve` makes of it: the way of new orders, the HTTP
application, and what goes on in the background.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from order_gateway.audit.checking import OrdersAudit
from order_gateway.audit.reconcile import Reconciling
from order_gateway.audit.repair import OrdersRepair
from order_gateway.audit.why import OrderExplainer
from order_gateway.gateway.breaker import GuardedGateway
from order_gateway.gateway.grpc.adapter import GrpcGateway, connected
from order_gateway.gateway.modes import Modes
from order_gateway.gateway.port import Mode, WarehouseGateway
from order_gateway.gateway.standing import Standing, database_clock
from order_gateway.http.app import PREFIX, make_app
from order_gateway.http.config import ConfigRoutes
from order_gateway.http.dead_letters import DeadLetterRoutes
from order_gateway.http.events import Streams
from order_gateway.http.framework.operations import Operation
from order_gateway.http.guards.slots import Slots
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
from order_gateway.metrics import PREFIX as PREFIX_OF_METRICS
from order_gateway.metrics import (
    GatewayMetrics,
    ObserveCalls,
    mode_gauges,
    observed_calls,
    observed_steps,
    slots_gauge,
    standing_gauges,
)
from order_gateway.payments import Payments
from order_gateway.payments.callbacks import Callbacks
from order_gateway.payments.choosing import make_payments
from order_gateway.pricing.basket import Basket, ProductPrices
from order_gateway.pricing.catalogue_sync import CatalogueSync, CatalogueSyncSettings
from order_gateway.pricing.price_catalogue import PriceCatalogue
from order_gateway.saga.pending_steps import PendingSteps
from order_gateway.saga.relay import Relay
from order_gateway.saga.steps import Saga, SagaSettings
from order_gateway.settings import BackgroundRole, OrdersSettings
from order_gateway.storage.idempotency import IdempotencyStore
from order_gateway.storage.reading import Listing
from order_gateway.storage.refunds import RefundList
from order_gateway.storage.retention import Retention
from order_gateway.storage.store import Store, StoreSettings
from order_gateway.storage.watching import Watching
from service_kit.background import Background, Kept, end, role_gauge
from service_kit.database.database import Database
from service_kit.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Core:
    """What the service and its commands work with; made by `opened`.

    Attributes:
        warehouse: each call as it is; the service puts its guard around it.
    """

    settings: OrdersSettings
    database: Database
    warehouse: GrpcGateway
    store: Store
    payments: Payments

    def audit(self, gateway: WarehouseGateway | None = None) -> OrdersAudit:
        """The comparison of orders with the warehouse."""
        return OrdersAudit(self.database, self.store, gateway or self.warehouse, self.settings.audit)

    def reconciling(self) -> Reconciling:
        """The comparison from the warehouse's side."""
        return Reconciling(self.database, self.store, self.warehouse, self.settings.audit.findings_max)

    def repair(self) -> OrdersRepair:
        """What mends the findings of the audit."""
        settings = self.settings
        saga = Saga(self.store, self.warehouse, self.payments, saga_settings(settings))
        relay = Relay(self.store, PendingSteps(self.database), saga, settings)
        hold_seconds = settings.payment_window_seconds + settings.hold_grace_seconds
        return OrdersRepair(self.database, self.store, saga, relay, self.warehouse, hold_seconds)

    def explainer(self, gateway: WarehouseGateway | None = None) -> OrderExplainer:
        """Why an order is as it is."""
        return OrderExplainer(self.audit(gateway), self.store, Listing(self.database, self.settings.list_counted_max))


@asynccontextmanager
async def database_of(settings: OrdersSettings) -> AsyncIterator[Database]:
    """The orders' database; hung up at the end. Nothing is asked of it yet."""
    database = Database(settings.database_url, settings.database)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened(
    settings: OrdersSettings, database: Database, observe: ObserveCalls | None = None
) -> AsyncIterator[Core]:
    """The core, put together; closed at the end, in the reverse order.

    Args:
        observe: sees each call to the warehouse.
    """
    async with AsyncExitStack() as stack:
        warehouse = await stack.enter_async_context(connected(settings.client_settings(), observe, settings.batches))
        bounds = StoreSettings(settings.payment_window_seconds, settings.hold_grace_seconds)
        store = Store(database, bounds, settings.batches)
        stack.push_async_callback(store.close)
        payments = make_payments(settings.payments, settings.simulator, settings.profile)
        stack.push_async_callback(payments.close)
        yield Core(settings, database, warehouse, store, payments)


def saga_settings(settings: OrdersSettings) -> SagaSettings:
    """The time bounds of the steps."""
    return SagaSettings(
        hold_grace_seconds=settings.hold_grace_seconds,
        reserve_deadline_seconds=settings.reserve_deadline_seconds,
        step_deadline_seconds=settings.step_deadline_seconds,
        charge_timeout_seconds=settings.charge_timeout_seconds,
        lease_margin_seconds=settings.lease_margin_seconds,
        warehouse_changes_max=settings.warehouse_changes_max,
    )


class Instruments:
    """What the service is seen by."""

    def __init__(self, settings: OrdersSettings, database: Database, tracing: Tracing) -> None:
        self.metrics = GatewayMetrics(database, settings.metrics)
        self.tracing = tracing

    @property
    def calls(self) -> ObserveCalls:
        """Sees the calls to the warehouse."""
        return observed_calls(self.metrics, self.tracing)


class Service:
    """The running service.

    Attributes:
        background: what goes on in it, for health and metrics.
    """

    def __init__(self, core: Core, instruments: Instruments) -> None:
        settings, database, self._metrics = core.settings, core.database, instruments.metrics
        self._core = core
        self._instruments = instruments
        self._gateway = GuardedGateway(core.warehouse, settings.breaker, settings.step_deadline_seconds)
        self._modes = Modes(database, self._gateway, settings.gateway, settings.gateway_poll_seconds)
        self._saga = Saga(core.store, self._gateway, core.payments, saga_settings(settings), self._modes.choose)
        self._standing = Standing(
            self._gateway,
            database_clock(database),
            core.warehouse.set_clock_ahead,
            every_seconds=settings.warehouse_look_seconds,
        )
        self._steps = PendingSteps(database)
        observe = observed_steps(self._metrics, instruments.tracing)
        self._relay = Relay(core.store, self._steps, self._saga, settings, observe)
        self._listing = Listing(database, settings.list_counted_max, settings.lists_at_once_max)
        self._watching = Watching(self._listing, settings.event_poll_seconds)
        self._price_catalogue = PriceCatalogue(database)
        self._slots = Slots(settings, self._metrics.limited.add)
        self.background = Background()
        self.background.watch(*core.store.batchers, *core.warehouse.batchers)
        self._measure()

    def _measure(self) -> None:
        self._metrics.add(
            *mode_gauges(self._modes),
            *self._core.payments.measures,
            *standing_gauges(self._standing),
            *self.background.measures(PREFIX_OF_METRICS),
            role_gauge(PREFIX_OF_METRICS, BackgroundRole, self._core.settings.background_roles),
            slots_gauge(self._slots.taken),
        )

    async def load(self) -> None:
        """Read what must be known before the first request. Raises: DatabaseFault."""
        await self._modes.load()
        await self._core.store.token()

    def application(self) -> web.Application:
        """All of HTTP."""
        core, settings = self._core, self._core.settings
        streams = Streams(core.store, self._listing, self._watching, settings, self.background)
        app = make_app(
            self._operations(streams),
            IdempotencyStore(core.database, settings.idempotency_claim_seconds),
            settings,
            body_size_max_bytes=settings.body_size_max_bytes,
            routes=MetricsRoutes(self._metrics).routes(),
            observers=[observe_middleware(self._metrics, self._instruments.tracing)],
            background=self.background,
            slots=self._slots,
        )
        streams.attach(app)
        return app

    def _operations(self, streams: Streams) -> list[Operation]:
        core, settings = self._core, self._core.settings
        holds = OrderHolds(self._gateway, core.store, self._saga, PREFIX)
        callbacks = Callbacks(core.database, settings.payments.http.callback_tolerance_seconds)
        refunds = RefundList(core.database, settings.list_counted_max)
        nouns = (
            OrderRoutes(core.store, self._saga, self._basket(), self._watching, PREFIX),
            OrderListRoutes(core.store, self._listing, streams, PREFIX),
            PaymentRoutes(self._saga, refunds, callbacks, settings.payments.http, PREFIX),
            ReservationRoutes(self._gateway, holds, self._listing, PREFIX),
            InventoryRoutes(self._gateway, holds, PREFIX),
            ProductRoutes(self._gateway, PREFIX),
            ConfigRoutes(self._modes, self._gateway, PREFIX),
            self._health(),
            DeadLetterRoutes(self._steps, self._relay, PREFIX),
            WhyRoutes(core.explainer(self._gateway), PREFIX),
        )
        return [operation for noun in nouns for operation in noun.operations()]

    def _health(self) -> HealthRoutes:
        return HealthRoutes(
            self._core.database,
            self._gateway,
            PREFIX,
            lambda: self._modes.mode is Mode.GRPC,
            self._standing,
            self.background,
            self._core.settings.ready_seconds,
        )

    def _basket(self) -> Basket:
        settings = self._core.settings
        prices = ProductPrices(
            self._gateway,
            settings.price_cache_seconds,
            self._price_catalogue,
            settings.price_deadline_seconds,
            settings.step_deadline_seconds,
            settings.catalogue_read_seconds,
        )
        return Basket(self._gateway, prices, settings.reserve_deadline_seconds, settings.currency_default)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """What goes on in the background of this process, for the time of an `async with`.

        What every process needs for its own sake always does; of the roles, those that the settings give it.
        """
        roles: dict[BackgroundRole, Callable[[], Awaitable[None]]] = {
            BackgroundRole.CATALOGUE: self._catalogue_sync().run,
            BackgroundRole.RETENTION: Retention(self._core.database, self._core.settings.retention).run,
        }
        always = {
            "breaker": self._gateway.watch,
            "database": self._core.database.watch,
            "mode": self._modes.run,
            "standing": self._standing.run,
        }
        chosen = {role.value: work for role, work in roles.items() if role in self._core.settings.background_roles}
        async with AsyncExitStack() as stack:
            for name, work in {**always, **chosen}.items():
                stack.push_async_callback(end, self.background.keep(name, work))
            if BackgroundRole.RELAY in self._core.settings.background_roles:
                self._saga.nudge = self._relay.nudge
                relaying = self.background.keep("relay", self._relay.run, lambda: self._relay.is_stopping)
                stack.push_async_callback(_end_of_relay, self._relay, relaying)
            yield

    def _catalogue_sync(self) -> CatalogueSync:
        core, settings = self._core, self._core.settings
        return CatalogueSync(
            core.database,
            self._price_catalogue,
            self._gateway.catalogue,
            CatalogueSyncSettings(
                every_seconds=settings.catalogue_read_seconds,
                all_every_seconds=settings.catalogue_all_seconds,
                retry_seconds=min(settings.breaker.open_seconds_max, settings.catalogue_read_seconds),
                lease_seconds=settings.catalogue_lease_seconds,
            ),
        )


async def _end_of_relay(relay: Relay, relaying: Kept) -> None:
    await relay.stop()
    await relaying.finish()
