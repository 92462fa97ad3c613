"""The numbers of the warehouse. What is counted for every call costs less than a microsecond."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, Metric

from service_kit.database.database import Database
from service_kit.metrics import SIZES, Gauge, Histogram, Labels, Metrics, Series, Tally

PREFIX = "warehouse"
STREAM_SECONDS = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 86_400.0)
"""Buckets for how long streams last."""
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Process = Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]]


class CallMetrics:
    """What is counted where calls come in.

    Attributes:
        answered: seconds that answered calls took, by method.
        ended: calls that were not answered, by method and status.
        refusals: by reason; those inside a BatchReserve, too.
        limited: calls that a bound has refused or ended, by the name of the bound.
    """

    def __init__(self) -> None:
        self._seconds = Histogram(f"{PREFIX}_call_duration_seconds", "The time that answered calls took.", ("method",))
        self.answered = _PerMethod(self._seconds)
        self.ended = Tally(f"{PREFIX}_calls", "Calls by method and status.", ("method", "code"))
        self.refusals = Tally(f"{PREFIX}_refusals", "Refusals by reason.", ("reason",))

        self.limited = Tally(
            f"{PREFIX}_limited", "Calls refused or ended because of a bound (of all, a key or an address).", ("bound",)
        )

    def read(self) -> Iterable[Metric]:
        """All of them."""
        calls = CounterMetricFamily(self.ended.name, self.ended.text, labels=self.ended.labels)
        for method, series in self.answered.items():
            calls.add_metric((method, "OK"), sum(series.counts))
        for labels, count in self.ended.values.items():
            calls.add_metric(labels, count)
        yield calls
        yield from self._seconds.read()
        yield from self.refusals.read()
        yield from self.limited.read()


class _PerMethod(dict[str, Series]):
    def __init__(self, histogram: Histogram) -> None:
        super().__init__()
        self._histogram = histogram

    def __missing__(self, method: str) -> Series:
        self[method] = series = self._histogram.series(method)
        return series


class StreamMetrics:
    """What is counted of calls that are answered by a stream, by method; how they end is in CallMetrics.

    Attributes:
        answers: messages sent.
        seconds: how long those that have ended lasted.
    """

    def __init__(self) -> None:
        self.answers = Tally(f"{PREFIX}_stream_answers", "Messages sent in streams.", ("method",))
        self.seconds = Histogram(
            f"{PREFIX}_stream_duration_seconds", "How long streams lasted that have ended.", ("method",), STREAM_SECONDS
        )

    def read(self) -> Iterable[Metric]:
        """All of them."""
        yield from self.answers.read()
        yield from self.seconds.read()


class BatchMetrics:
    """What is counted per batch, by the batcher's name."""

    def __init__(self) -> None:
        self._sizes = Histogram(f"{PREFIX}_batch_size", "Commands or questions per batch.", ("batcher",), SIZES)
        self._seconds = Histogram(
            f"{PREFIX}_batch_duration_seconds",
            "From a batch's start to its answers, repetitions included.",
            ("batcher",),
        )

    def timed(self, name: str, process: Process[ItemT, ResultT]) -> Process[ItemT, ResultT]:
        """`process`, counted."""
        sizes, seconds = self._sizes.series(name), self._seconds.series(name)

        async def counted(items: Sequence[ItemT]) -> Sequence[ResultT]:
            started = time.perf_counter()
            try:
                return await process(items)
            finally:
                sizes.observe(len(items))
                seconds.observe(time.perf_counter() - started)

        return counted

    def read(self) -> Iterable[Metric]:
        """All of them."""
        yield from self._sizes.read()
        yield from self._seconds.read()


class HasDepth(Protocol):
    """A queue."""

    @property
    def depth(self) -> int:
        """Items that wait."""
        ...


class Sweeps(Protocol):
    """What a sweeper tells about itself."""

    expired: int
    lag_seconds: float
    swept_at: float


def warehouse_metrics(
    database: Database,
    calls: CallMetrics,
    batches: BatchMetrics,
    queues: dict[str, HasDepth],
    sweeper: Sweeps,
) -> Metrics:
    """Everything that a server process tells about itself."""
    metrics = Metrics()

    def depths() -> dict[Labels, float]:
        return {(name,): queue.depth for name, queue in queues.items()}

    metrics.add(
        calls,
        batches,
        Gauge(f"{PREFIX}_queue_depth", "Commands or questions that wait for a batch.", depths, ("batcher",)),
        *database.measures,
        _Expired(sweeper),
        Gauge(
            f"{PREFIX}_sweep_lag_seconds",
            "How long the oldest overdue hold had been overdue when the last sweep found it; 0 if it found none.",
            lambda: sweeper.lag_seconds,
        ),
        Gauge(
            f"{PREFIX}_sweep_age_seconds",
            "Time since a sweep last came to its end.",
            lambda: time.monotonic() - sweeper.swept_at,
        ),
    )
    return metrics


class HasOpenCalls(Protocol):
    """What bounds the calls that need no key."""

    @property
    def under_way(self) -> dict[Labels, float]:
        """How many there are now, of whom."""
        ...


def open_gauge(calls: HasOpenCalls) -> Gauge:
    """Calls that need no key."""
    return Gauge(
        f"{PREFIX}_open_calls", "Calls for health and reflection under way.", lambda: calls.under_way, ("callers",)
    )


class HasStreams(Protocol):
    """What looks after streams."""

    @property
    def under_way(self) -> dict[Labels, float]:
        """How many there are now, of which method."""
        ...


def streams_gauge(streams: HasStreams) -> Gauge:
    """Calls that are answered by a stream."""
    return Gauge(f"{PREFIX}_streams", "Streams under way, by method.", lambda: streams.under_way, ("method",))


class HasConnections(Protocol):
    """What looks after connections."""

    @property
    def open(self) -> dict[Labels, float]:
        """How many there are, of whom."""
        ...


def connections_gauge(connections: HasConnections) -> Gauge:
    """Connections of clients."""
    return Gauge(
        f"{PREFIX}_connections",
        "Connections of clients, where keys are needed: on which a valid key was shown, and others.",
        lambda: connections.open,
        ("callers",),
    )


class HasLockedRows(Protocol):
    """A store."""

    @property
    def locked_rows(self) -> int:
        """Rows that somebody else keeps locked."""
        ...


class SetsAside(Protocol):
    """A batcher."""

    @property
    def aside(self) -> int:
        """Items set aside."""
        ...


def stuck_gauges(store: HasLockedRows, batcher: SetsAside) -> list[Gauge]:
    """What is held up by locks of other sessions."""
    return [
        Gauge(
            f"{PREFIX}_locked_rows",
            "Rows that another session keeps locked, as far as this process knows.",
            lambda: store.locked_rows,
        ),
        Gauge(
            f"{PREFIX}_commands_set_aside",
            "Commands that wait for rows that another session keeps locked.",
            lambda: batcher.aside,
        ),
    ]


class _Expired:
    def __init__(self, sweeper: Sweeps) -> None:
        self._sweeper = sweeper

    def read(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            f"{PREFIX}_holds_expired", "Holds that this process ended because their time was over.",
            value=self._sweeper.expired,
        )  # fmt: skip
