"""Numbers that a running service keeps about itself, and how Prometheus gets to read them.

Counting must cost next to nothing: a `Tally` is a dictionary, a `Histogram` a list of counters, both for one event
loop (no locks). Only when somebody asks are they turned into Prometheus metrics. Values that change by themselves
(a queue's depth, what a query finds) are asked for at that moment.

Labels come from this program, never from callers: a route's template, a method's name, a reason code. Should one
of them not be as bounded as it looks, what is too much is counted together, as "(other)".
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

SERIES_MAX = 500
"""Label combinations of one metric."""
OTHER = "(other)"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets for durations, upper bounds in seconds."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
"""Buckets for numbers of things."""

Labels = tuple[str, ...]


class Measure(Protocol):
    """Something that can be read as a Prometheus metric."""

    def read(self) -> Iterable[Metric]:
        """Its present values."""
        ...


class Tally:
    """A counter per combination of labels.

    Args:
        name: without the `_total` that Prometheus adds.
        text: what it counts, for people.
        labels: their names.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count `amount` more under `labels`, in the order of their names."""
        values = self.values
        if labels in values:
            values[labels] += amount
        elif len(values) < SERIES_MAX:
            values[labels] = amount
        else:
            rest = (OTHER,) * len(self.labels)
            values[rest] = values.get(rest, 0) + amount

    def read(self) -> Iterable[Metric]:
        """The counters."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        yield family


class Histogram:
    """How often values fell into which bucket, per combination of labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self._series: dict[Labels, Series] = {}
        if not labels:
            self.series()

    def series(self, *labels: str) -> "Series":
        """The buckets of one combination of labels; keep it where it is used often."""
        found = self._series.get(labels)
        if found is None:
            key = labels if len(self._series) < SERIES_MAX else (OTHER,) * len(self.labels)
            found = self._series.setdefault(key, Series(self.bounds))
        return found

    def observe(self, value: float, *labels: str) -> None:
        """One more value."""
        self.series(*labels).observe(value)

    def read(self) -> Iterable[Metric]:
        """The buckets, cumulated as Prometheus wants them."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        names = [*map(_bound, self.bounds), "+Inf"]
        for labels, series in self._series.items():
            reached, buckets = 0, []
            for name, count in zip(names, series.counts, strict=True):
                reached += count
                buckets.append((name, reached))
            family.add_metric(labels, buckets, series.total)
        yield family


class Series:
    """One histogram's buckets."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Gauge:
    """Values asked for when somebody reads them: a number, or a number per combination of labels."""

    def __init__(
        self, name: str, text: str, value: Callable[[], float | Mapping[Labels, float]], labels: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self._value = value

    def read(self) -> Iterable[Metric]:
        """What it is now."""
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        value = self._value()
        for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
            family.add_metric(labels, number)
        yield family


class Metrics(Collector):
    """All that a process tells about itself; besides what is added, its memory, processor time and open files."""

    def __init__(self) -> None:
        self._measures: list[Measure] = []
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def add(self, *measures: Measure) -> None:
        """Tell about these, too."""
        self._measures.extend(measures)

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: reading to find out the names would ask all gauges."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything that was added."""
        for measure in self._measures:
            yield from measure.read()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything as text and its content type, in the format that the header Accept prefers."""
        encode, content_type = self.format(accept)
        return encode(), content_type

    def format(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """What makes the text, and its content type, in the format that the header Accept prefers."""
        encode, content_type = choose_encoder(accept)
        return partial(encode, self._registry), content_type


def _bound(value: float) -> str:
    return str(float(value))
