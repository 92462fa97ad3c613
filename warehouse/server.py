"""One server process, put together: database, batchers, servicers, health, reflection, sweeper."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, cast

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from service_kit.attempt_limit import AttemptLimit
from service_kit.background import Background, end, role_gauge
from service_kit.batcher import Batcher
from service_kit.database.character_sets import report_wrong_columns
from service_kit.database.database import Database, DatabaseAway
from service_kit.database.problems import check_database
from service_kit.descriptors import room_for
from service_kit.garbage import calm_garbage_collector
from service_kit.metrics import Metrics
from service_kit.ports import require_free
from service_kit.starting import NotStarted
from service_kit.tracing import Tracing, configure_tracing
from stockwarden_client.v1 import stock_pb2, stock_pb2_grpc, warehouse_pb2, warehouse_pb2_grpc
from warehouse.auth import Keyring
from warehouse.metrics import (
    BatchMetrics,
    CallMetrics,
    StreamMetrics,
    connections_gauge,
    open_gauge,
    streams_gauge,
    stuck_gauges,
    warehouse_metrics,
)
from warehouse.reading.queries import StockQueries
from warehouse.rpc.administration import Administration
from warehouse.rpc.connections import OPEN_FILES, Connections
from warehouse.rpc.edge import Edge
from warehouse.rpc.entrance import AdmissionHandler, Entrance, OpenCalls
from warehouse.rpc.incoming import bounded
from warehouse.rpc.open_streams import NOT_SERVING, REFLECTION_SERVICES, Health, Reflection
from warehouse.rpc.requests import RequestReader
from warehouse.rpc.reservations import Reservations
from warehouse.rpc.steady_server import add_service, steady_server, stop_server
from warehouse.rpc.strangers import Strangers
from warehouse.rpc.streams import Streams, begun_at_once
from warehouse.rpc.tls import server_credentials
from warehouse.settings import BackgroundRole, WarehouseSettings
from warehouse.starting import SERVICE
from warehouse.writing.catalogue import Catalogue
from warehouse.writing.expiry import Sweeper
from warehouse.writing.store import LevelBatcher, LevelReader, StockBatcher, StockStore

log = structlog.get_logger(__name__)
SERVICES = (
    warehouse_pb2.DESCRIPTOR.services_by_name["WarehouseService"].full_name,
    stock_pb2.DESCRIPTOR.services_by_name["StockService"].full_name,
)
CALLS_HARD_MAX_FACTOR = 2
"""Past so many times `calls_max` gRPC itself turns calls away, before they cost anything and without details."""
PENDING_MIN = 1000
"""Calls that may wait to be looked at, besides those that are allowed in flight."""
READ_BYTES_MAX = 64 * 1024
_SERVING = health_pb2.HealthCheckResponse.SERVING


AddServices = Callable[[grpc.aio.Server, Streams], None]


def _nothing_more(_server: grpc.aio.Server, _streams: Streams) -> None:
    """What is added unless something is given."""


async def serve(settings: WarehouseSettings, *, shares_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; then refuse new calls, finish those in flight, and return.

    Args and Raises: as `running`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, shares_port=shares_port) as port:
        calm_garbage_collector()
        log.info("serving", address=f"{settings.listen.rpartition(':')[0]}:{port}")
        await stop.wait()
        log.info("stopping", grace_seconds=settings.stop_grace_seconds)


@contextlib.asynccontextmanager
async def running(
    settings: WarehouseSettings, *, shares_port: bool = False, add_more: AddServices = _nothing_more
) -> AsyncIterator[int]:
    """A server that takes calls inside the `async with`; gives its port.

    Args:
        shares_port: with other processes, whose supervisor holds it for them all.
        add_more: adds further services, which get everything that the warehouse's own ones have.

    Raises: NotStarted: a port is taken, or the database will not do as it is. (One that is away may come later.)
    """
    _require_ports(settings, shares_port=shares_port)
    database = Database(settings.database_url, settings.database)
    store, reader = StockStore(database), LevelReader(database)
    calls, batches = CallMetrics(), BatchMetrics()
    batcher: StockBatcher = Batcher(batches.timed("stock", store.process), settings.batcher, "stock batcher")
    levels: LevelBatcher = Batcher(batches.timed("levels", reader.process), settings.reader, "levels batcher")
    sweeper = Sweeper(database, batcher, settings.sweep_size_max, settings.sweep_seconds)
    many = settings.calls_max + settings.open_calls.calls_max + settings.streams.streams_max
    connections = Connections(room_for(settings.connections_max), calls.limited.add)
    are_watched = bool(settings.api_keys) and OPEN_FILES.is_dir()
    server = steady_server(_options(settings, connections.most, shares_port=shares_port), CALLS_HARD_MAX_FACTOR * many)
    tracing = configure_tracing("warehouse")
    entrance = Entrance(
        Keyring(settings.api_keys),
        AttemptLimit(settings.wrong_keys_per_minute_max),
        settings.trusted_proxies,
        calls.limited.add,
        connections.shown.add if are_watched else _ignored,
    )
    edge = _edge(settings, entrance, calls, tracing)
    rate = settings.open_calls.calls_per_second_max
    strangers = Strangers(rate, settings.trusted_proxies, calls.limited.add)
    streams = Streams(edge, entrance, settings.streams, stream_metrics := StreamMetrics())
    registry = cast("grpc.aio.Server", _Registry(server, entrance, strangers, edge, settings))
    _add_services(registry, edge, settings, database, batcher, levels, sweeper)
    add_more(registry, streams)
    known, asked = Health(), Reflection((*SERVICES, health.SERVICE_NAME))
    opened = OpenCalls(entrance, strangers, calls, settings.open_calls)
    add_service(server, health.SERVICE_NAME, known.methods(opened))
    for name in REFLECTION_SERVICES:
        add_service(server, name, asked.methods(opened))
    try:
        await check_database(database, SERVICE, must_answer=False)
        port = _bind(server, settings)
    except BaseException:
        await database.close()
        raise
    batcher.start()
    levels.start()
    background = Background()
    background.watch(batcher, levels)
    await _tell_health(known, database, background)
    await report_wrong_columns(database)
    await server.start()
    tasks = [
        background.keep("health", partial(_watch_health, known, database, background, settings.health_check_seconds)),
        background.keep("database", database.watch),
        background.keep("streams", streams.watch),
        *([background.keep("sweeper", sweeper.run)] if BackgroundRole.SWEEPER in settings.background_roles else []),
    ]
    if are_watched:
        tasks.append(background.keep("connections", partial(connections.watch, port)))
    metrics = warehouse_metrics(database, calls, batches, {"stock": batcher, "levels": levels}, sweeper)
    metrics.add(*background.measures("warehouse"), *stuck_gauges(store, batcher), open_gauge(opened))
    metrics.add(stream_metrics, streams_gauge(streams))
    metrics.add(role_gauge("warehouse", BackgroundRole, settings.background_roles))
    if are_watched:
        metrics.add(connections_gauge(connections))
    try:
        async with _metrics_exposed(metrics, settings.metrics_listen):
            yield port
    finally:
        for listened_to in (known, asked, streams):
            listened_to.stop()
        await stop_server(server, settings.stop_grace_seconds, partial(_listeners, streams, opened))
        await end(*tasks)
        await asyncio.gather(batcher.close(), levels.close())
        await asyncio.gather(store.close(), reader.close())
        await database.close()
        await asyncio.to_thread(tracing.close)


def _listeners(streams: Streams, opened: OpenCalls) -> float:
    """Calls under way that a server that stops has ended, and need not wait for."""
    return streams.taken + sum(opened.under_way.values())


def _edge(settings: WarehouseSettings, entrance: Entrance, calls: CallMetrics, tracing: Tracing) -> Edge:
    return Edge(
        entrance,
        settings.call_seconds_max,
        calls,
        tracing,
        calls_max=settings.calls_max,
        key_share_max=settings.key_share_max,
        refusal_lines_per_second_max=settings.refusal_lines_per_second_max,
        logs_answers=settings.log_level == "DEBUG",
    )


def _ignored(_peer: str) -> None:
    """What is told about peers where nobody looks after their connections."""


@contextlib.asynccontextmanager
async def _metrics_exposed(metrics: Metrics, listen: str) -> AsyncIterator[None]:
    if not listen:
        yield
        return
    # An HTTP server is only imported where one is wanted.
    from service_kit.exposition import exposed

    async with exposed(metrics, "WAREHOUSE_METRICS_LISTEN", listen, "warehouse") as port:
        log.info("metrics", address=f"{listen.rpartition(':')[0]}:{port}")
        yield


class _Registry:
    """What generated code takes for a server: its methods have readers of ours, and strangers don't get to them."""

    def __init__(
        self,
        server: grpc.aio.Server,
        entrance: Entrance,
        strangers: Strangers,
        edge: Edge,
        settings: WarehouseSettings,
    ) -> None:
        self._server = server
        self._entrance = entrance
        self._strangers = strangers
        self._edge = edge
        self._settings = settings

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Nothing: the same ones come by their names."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """All methods of a service; behind a doorkeeper, if there are keys."""
        methods = begun_at_once(bounded(handlers, self._bytes_max))
        handler = grpc.method_handlers_generic_handler(service, methods)
        if self._entrance.is_locked:
            handler = AdmissionHandler(handler, self._entrance, self._strangers, self._edge.failed)
        add_service(self._server, service, methods, handler)

    def _bytes_max(self, method: str) -> int:
        is_batch = method == "BatchReserve"
        return self._settings.message_bytes_max if is_batch else self._settings.request_bytes_max


def _add_services(
    server: grpc.aio.Server,
    edge: Edge,
    settings: WarehouseSettings,
    database: Database,
    batcher: StockBatcher,
    levels: LevelBatcher,
    sweeper: Sweeper,
) -> None:
    queries = StockQueries(database, settings.lists_at_once_max)
    requests = RequestReader(database)
    limits, bytes_max = settings.limits, settings.message_bytes_max
    reservations = Reservations(edge, batcher, levels, queries, requests, sweeper, limits, bytes_max)
    administration = Administration(edge, batcher, levels, queries, Catalogue(database), limits, bytes_max)
    warehouse_pb2_grpc.add_WarehouseServiceServicer_to_server(reservations, server)
    stock_pb2_grpc.add_StockServiceServicer_to_server(administration, server)


def _require_ports(settings: WarehouseSettings, *, shares_port: bool) -> None:
    """Raises: NotStarted, if somebody else has one."""
    if not shares_port:
        require_free("WAREHOUSE_LISTEN", settings.listen)
    if settings.metrics_listen:
        require_free("WAREHOUSE_METRICS_LISTEN", settings.metrics_listen)


def _options(settings: WarehouseSettings, connections_max: int, *, shares_port: bool) -> list[tuple[str, int]]:
    """See https://grpc.github.io/grpc/core/group__grpc__arg__keys.html for their meaning."""
    return [
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A ping is answered in a microsecond. Counting strikes costs more: once there are too many, gRPC takes up each
        # further ping together with all those before it, and the connection that it means to close never gets to that.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", int(settings.connection_age_max_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.max_connection_idle_ms", int(settings.connection_idle_seconds_max * 1000)),
        ("grpc.max_concurrent_streams", settings.streams_per_connection_max),
        # Otherwise calls that have just ended count as well, and some that a client may make are refused.
        ("grpc.http2.max_deallocating_streams", settings.streams_per_connection_max),
        # gRPC drops calls that wait to be looked at at random, whoever made them; not before we would refuse them.
        ("grpc.server.max_pending_requests", PENDING_MIN + settings.calls_max),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_MIN + CALLS_HARD_MAX_FACTOR * settings.calls_max),
        ("grpc.max_allowed_incoming_connections", connections_max),
        # What is read at once of a connection. With gRPC's own 4 MiB a flood holds three times as much memory, and of
        # one of settings two fifths of all that came stay for good (110 of 256 MiB; so none).
        ("grpc.experimental.tcp_max_read_chunk_size", READ_BYTES_MAX),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_seconds_max * 1000)),
    ]


def _bind(server: grpc.aio.Server, settings: WarehouseSettings) -> int:
    """Take the port. Raises: NotStarted, if that can't be done."""
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(settings.listen)
        credentials = server_credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return server.add_secure_port(settings.listen, credentials)
    except (OSError, ValueError) as error:
        raise NotStarted(f"WAREHOUSE_TLS_CERTIFICATE, _KEY or _CLIENT_CA can't be used: {error}") from error
    except RuntimeError as error:
        raise NotStarted(f"WAREHOUSE_LISTEN: can't listen on {settings.listen}; set another port") from error


async def _watch_health(known: Health, database: Database, background: Background, pause_seconds: float) -> None:
    while True:
        await asyncio.sleep(pause_seconds)
        await _tell_health(known, database, background)


async def _tell_health(known: Health, database: Database, background: Background) -> None:
    """SERVING while the database takes writes and all goes on, for the server as a whole ("") and for each service."""
    try:
        await database.ping()
        status = _SERVING
    except DatabaseAway as error:
        log.warning("database_away", error=repr(error.__cause__))
        status = NOT_SERVING
    if ill := background.unhealthy:
        log.warning("background_task_ill", tasks=ill)
        status = NOT_SERVING
    for name in ("", *SERVICES):
        known.set(name, status)
