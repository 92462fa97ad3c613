"""The numbers of the order service: what it counts as it goes, and what it finds in its database when asked."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from order_gateway.gateway.modes import Modes
from order_gateway.gateway.port import Mode
from order_gateway.gateway.standing import Standing
from order_gateway.lifecycle import Status, Step
from order_gateway.saga.pending_steps import PendingStep
from order_gateway.settings import MetricsSettings
from service_kit.database.database import Database, DatabaseFault
from service_kit.logging import note_call
from service_kit.metrics import Gauge, Histogram, Labels, Metrics, Tally
from service_kit.tracing import Tracing, current_traceparent, trace_id

log = structlog.get_logger(__name__)
PREFIX = "order_gateway"
TRACEPARENT = "traceparent"
TEXT_SECONDS_MAX = 1.0
"""How old the text of /metrics may be."""
Metadata = list[tuple[str, str]]
ObserveCalls = Callable[[str, Metadata], AbstractContextManager[None]]
"""Sees each call to the warehouse with all its repetitions, and may add to its metadata."""

# Constant text, and no more than `most` entries of an index per status, however many orders there are.
_COUNT_ORDERS = text(
    " UNION ALL ".join(
        f"SELECT '{status}', COUNT(*) FROM (SELECT 1 FROM orders WHERE status = '{status}' LIMIT :most) AS {status}"  # noqa: S608
        for status in Status
    )
)
_COUNT_INTENTS = text(
    "SELECT step, COUNT(*), MAX(attempts), TIMESTAMPDIFF(MICROSECOND, MIN(created_at), SYSDATE(6)) / 1e6 FROM"
    " (SELECT step, attempts, created_at FROM intents WHERE parked_at IS NULL ORDER BY due_at LIMIT :most) AS waiting"
    " GROUP BY step"
)
_COUNT_PARKED = text(
    "SELECT step, COUNT(*) FROM (SELECT step FROM intents WHERE parked_at IS NOT NULL LIMIT :most) AS parked"
    " GROUP BY step"
)


class GatewayMetrics(Metrics):
    """What this process counts, and what `look` finds.

    Attributes:
        in_flight: requests being worked on.
        steps_in_flight: steps that the relay is trying.
        text_seconds: how old the text of /metrics may be.
        limited: what bounds have refused or ended, by the name of the bound.
    """

    def __init__(self, database: Database, settings: MetricsSettings) -> None:
        super().__init__()
        self._database = database
        self._settings = settings
        self.text_seconds = min(settings.refresh_seconds, TEXT_SECONDS_MAX)
        self._found = _Found()
        self._looked_at = -float("inf")
        self._looking = asyncio.Lock()
        self.in_flight = 0
        self.steps_in_flight = 0
        self.requests = Tally(f"{PREFIX}_http_requests", "Requests answered.", ("method", "route", "status"))
        self.request_seconds = Histogram(
            f"{PREFIX}_http_request_duration_seconds", "From a request to its answer.", ("method", "route")
        )
        self.refusals = Tally(f"{PREFIX}_http_errors", "Answers that are refusals or faults, by code.", ("code",))
        self.limited = Tally(
            f"{PREFIX}_limited",
            "Requests refused, and connections closed, because of a bound (of all, or of one key, person or address).",
            ("bound",),
        )
        self.warehouse_calls = Tally(
            f"{PREFIX}_warehouse_calls",
            "Calls to the warehouse with all their repetitions; the outcome is OK, a refusal's or a fault's reason.",
            ("method", "outcome"),
        )
        self.warehouse_call_seconds = Histogram(
            f"{PREFIX}_warehouse_call_duration_seconds", "The time these calls took.", ("method",)
        )
        self.relay_steps = Tally(
            f"{PREFIX}_relay_steps", "Steps that the relay tried: done, failed (it tries again).", ("step", "outcome")
        )
        self.add(self.requests, self.request_seconds, self.refusals, self.limited, self.warehouse_calls)
        self.add(self.warehouse_call_seconds, self.relay_steps, *self._gauges(), *database.measures)

    async def look(self) -> None:
        """Ask the database, unless that was done a moment ago; not for long, and without failing."""
        async with self._looking:
            if time.monotonic() - self._looked_at < self._settings.refresh_seconds:
                return
            try:
                async with asyncio.timeout(self._settings.query_timeout_seconds):
                    self._found = await self._database.run_in_transaction(self._count)
            except (DatabaseFault, TimeoutError) as fault:
                log.warning("metrics_without_database", error=str(fault))
                self._found = _Found()
            self._looked_at = time.monotonic()

    async def _count(self, connection: AsyncConnection) -> "_Found":
        most = {"most": self._settings.counted_max}
        found = _Found(is_there=True)
        for status, count in await connection.execute(_COUNT_ORDERS, most):
            found.orders[status,] = count
        for step in Step:
            found.open[step,] = found.oldest[step,] = found.attempts[step,] = found.parked[step,] = 0
        for step, count, attempts, age in await connection.execute(_COUNT_INTENTS, most):
            found.open[step,] = count
            found.attempts[step,] = attempts
            found.oldest[step,] = max(float(age), 0)
        for step, count in await connection.execute(_COUNT_PARKED, most):
            found.parked[step,] = count
        return found

    def _gauges(self) -> list[Gauge]:
        most = f" (no more than {self._settings.counted_max} are counted)"
        return [
            Gauge(f"{PREFIX}_http_requests_in_flight", "Requests being worked on.", lambda: self.in_flight),
            Gauge(f"{PREFIX}_relay_steps_in_flight", "Steps that the relay is trying.", lambda: self.steps_in_flight),
            Gauge(f"{PREFIX}_database_up", "1 if the order database could be asked.", lambda: self._found.is_there),
            Gauge(f"{PREFIX}_orders", f"Orders by status{most}.", lambda: self._found.orders, ("status",)),
            Gauge(
                f"{PREFIX}_intents_open",
                f"Steps still to be done that are not parked{most}.",
                lambda: self._found.open,
                ("step",),
            ),
            Gauge(
                f"{PREFIX}_steps_parked",
                f"Steps that keep failing for a reason that waiting does not mend{most}.",
                lambda: self._found.parked,
                ("step",),
            ),
            Gauge(
                f"{PREFIX}_intents_oldest_age_seconds",
                "Age of the oldest step still to be done that is not parked; 0 if there is none.",
                lambda: self._found.oldest,
                ("step",),
            ),
            Gauge(
                f"{PREFIX}_intents_attempts_max",
                "Tries of the step that failed most often and is still to be done.",
                lambda: self._found.attempts,
                ("step",),
            ),
        ]


class _Found:
    def __init__(self, *, is_there: bool = False) -> None:
        self.is_there = is_there
        self.orders: dict[Labels, float] = {}
        self.open: dict[Labels, float] = {}
        self.oldest: dict[Labels, float] = {}
        self.attempts: dict[Labels, float] = {}
        self.parked: dict[Labels, float] = {}


def mode_gauges(modes: Modes) -> list[Gauge]:
    """How orders reach the warehouse, and whether it is thought to be there."""
    return [
        Gauge(
            f"{PREFIX}_mode",
            "1 for the mode in use.",
            lambda: {(mode,): float(mode is modes.mode) for mode in Mode},
            ("mode",),
        ),
        Gauge(
            f"{PREFIX}_warehouse_breaker_open",
            "1 while the circuit breaker keeps calls from the warehouse, 0.5 while it lets one try.",
            lambda: {"closed": 0, "open": 1}.get(modes.status().breaker, 0.5),
        ),
    ]


def connection_gauge(count: Callable[[], float]) -> Gauge:
    """How many connections are open."""
    return Gauge(f"{PREFIX}_http_connections", "Connections of clients that are open.", count)


def slots_gauge(taken: Callable[[], dict[Labels, float]]) -> Gauge:
    """How many slots are taken, by kind."""
    return Gauge(f"{PREFIX}_slots_taken", "Requests, event streams and waits under way, by kind.", taken, ("kind",))


def standing_gauges(standing: Standing) -> list[Gauge]:
    """Whether the warehouse takes this service's key, how far its clock is off, and connections that went silent."""
    return [
        Gauge(
            f"{PREFIX}_warehouse_key_refused",
            "1 while the warehouse does not know this service's key, or it does not allow what orders need.",
            lambda: standing.problem is not None,
        ),
        Gauge(
            f"{PREFIX}_warehouse_clock_ahead_seconds",
            "How far the warehouse's database's clock is ahead of the order database's; 0 within a second.",
            lambda: standing.clock_ahead.total_seconds(),
        ),
        Gauge(
            f"{PREFIX}_warehouse_connections_replaced",
            "Connections to the warehouse that had gone silent and were replaced, since the start.",
            lambda: standing.connections_replaced,
        ),
    ]


def observed_calls(metrics: GatewayMetrics, tracing: Tracing) -> ObserveCalls:
    """What counts, times and traces the calls of a WarehouseClient."""
    return lambda method, metadata: ObservedCall(metrics, tracing, method, metadata)


def observed_steps(metrics: GatewayMetrics, tracing: Tracing) -> Callable[[PendingStep], AbstractContextManager[None]]:
    """What counts and traces the steps of a Relay; each continues the trace of the request that it began with."""

    @contextmanager
    def observe(intent: PendingStep) -> Iterator[None]:
        attributes = {"order.id": intent.order_id, "attempt": intent.attempts}
        metrics.steps_in_flight += 1
        try:
            with tracing.span(f"relay {intent.step}", "consumer", intent.traceparent, attributes):
                note_call(trace_id=trace_id(current_traceparent()))
                yield
        except BaseException:
            metrics.relay_steps.add(intent.step, "failed")
            raise
        finally:
            metrics.steps_in_flight -= 1
        metrics.relay_steps.add(intent.step, "done")

    return observe


class ObservedCall:
    """One call to the warehouse with all its repetitions, for the time of a `with`."""

    def __init__(self, metrics: GatewayMetrics, tracing: Tracing, method: str, metadata: Metadata) -> None:
        self._metrics = metrics
        self._method = method
        self._metadata = metadata
        # What goes out in a batch is sent by a task that belongs to no request; it says whose trace it continues.
        given = next((text for name, text in metadata if name == TRACEPARENT), None)
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        self._span = tracing.span(f"warehouse {method}", "client", given, attributes)

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        self._entered = self._span.__enter__()
        others = [item for item in self._metadata if item[0] != TRACEPARENT]
        traceparent = current_traceparent()
        self._metadata[:] = [*others, (TRACEPARENT, traceparent)] if traceparent else others

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        outcome = "OK" if error is None else str(getattr(error, "reason", "") or type(error).__name__)
        self._metrics.warehouse_calls.add(self._method, outcome)
        self._metrics.warehouse_call_seconds.observe(time.perf_counter() - self._started, self._method)
        self._entered.set_attribute("warehouse.outcome", outcome)
        # A refusal is an answer, too: the span does not fail with it, and never sees its exception.
        self._span.__exit__(None, None, None)
