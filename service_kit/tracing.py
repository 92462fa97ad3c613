"""W3C trace context (https://www.w3.org/TR/trace-context/): which calls, wherever they run, belong together.

Where a call comes in it continues the caller's trace, or begins one; what it causes carries on with
`current_traceparent`. Spans are exported by OpenTelemetry if the standard environment variables ask for it
(OTEL_EXPORTER_OTLP_ENDPOINT and others, see `configure_tracing`). Otherwise nothing of OpenTelemetry is even
imported; the context still travels, so that a traced caller finds its trace again behind this service.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

from service_kit.unique_ids import random_hex

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import SpanKind

Kind = Literal["server", "client", "internal", "consumer"]
Attributes = Mapping[str, str | float | bool]
_current: ContextVar[str] = ContextVar("traceparent", default="")
_VALID = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
LAST_EXPORT_SECONDS = 2.0
"""How long a service that stops tries to get rid of its last spans."""
TRACEPARENT_LENGTH_MAX = 55
"""What this version of the standard needs; longer ones, of later versions, are cut down to it."""


class Span(Protocol):
    """What a piece of work may say about itself while it runs."""

    def set_attribute(self, name: str, value: str | float | bool) -> None:
        """Add a fact."""
        ...

    def set_failed(self, reason: str) -> None:
        """The work did not end well."""
        ...


class Tracing(Protocol):
    """Makes spans."""

    @property
    def exports(self) -> bool:
        """Whether anybody will see the spans."""
        ...

    def span(
        self, name: str, kind: Kind, parent: str | None = None, attributes: Attributes | None = None
    ) -> AbstractContextManager[Span]:
        """A piece of work, for the time of a `with`.

        Args:
            parent: the traceparent it continues; "" begins a trace, None continues what runs here.
        """
        ...

    def close(self) -> None:
        """Export what has not been exported yet."""
        ...


def current_traceparent() -> str:
    """The trace context of what runs here, to be passed on; "" outside of any."""
    return _current.get()


def valid_traceparent(text: str | None) -> str:
    """A traceparent as it can be passed on, "" if it is none."""
    if not text or not _VALID.fullmatch(text):
        return ""
    return f"00{text[2:TRACEPARENT_LENGTH_MAX]}"


def trace_id(traceparent: str) -> str:
    """The trace that a valid traceparent belongs to; "" of an empty one."""
    return traceparent[3:35]


def is_configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether spans are to be exported, by https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").lower() == "none":
        return False
    return any(environment.get(name) for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"))


def configure_tracing(service: str) -> Tracing:
    """What makes spans in this process.

    They are exported over OTLP where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.
    OTEL_EXPORTER_OTLP_PROTOCOL (`http/protobuf` or `grpc`), OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and OTEL_BSP_* do what the standard says.

    Args:
        service: its name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES gives another.

    Raises:
        SystemExit: a protocol that is not one of the two; the message says so.
    """
    return _Exporting(service) if is_configured() else _Passing()


class _Silent:
    def set_attribute(self, name: str, value: str | float | bool) -> None:
        """Nobody listens."""

    def set_failed(self, reason: str) -> None:
        """Nobody listens."""


_SILENT = _Silent()


class _Passing:
    """Passes the context on, without spans of its own: what is called here sees our caller as its parent."""

    exports = False

    def span(
        self, name: str, kind: Kind, parent: str | None = None, attributes: Attributes | None = None
    ) -> "_Passage":
        begins = kind in ("server", "consumer")
        return _Passage(valid_traceparent(parent) or (_new_traceparent() if begins else _current.get()))

    def close(self) -> None:
        """Nothing waits."""


class _Passage:
    __slots__ = ("_before", "_traceparent")

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def __enter__(self) -> Span:
        self._before = _current.set(self._traceparent)
        return _SILENT

    def __exit__(self, *_: object) -> None:
        _current.reset(self._before)


def _new_traceparent() -> str:
    # Sampled: others behind this service may export what they do for it.
    return f"00-{random_hex(16)}-{random_hex(8)}-01"


class _Exporting:
    """Spans of OpenTelemetry's SDK."""

    exports = True

    def __init__(self, service: str) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = Resource({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=Resource.create().merge(named), shutdown_on_exit=False)
        self._exporter = _exporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(service)
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace
        self._nothing = Context()

    @contextmanager
    def span(
        self, name: str, kind: Kind, parent: str | None = None, attributes: Attributes | None = None
    ) -> Iterator[Span]:
        carried = _current.get() if parent is None else valid_traceparent(parent)
        context = self._propagator.extract({"traceparent": carried} if carried else {}, self._nothing)
        kinds: dict[Kind, SpanKind] = {
            "server": self._trace.SpanKind.SERVER,
            "client": self._trace.SpanKind.CLIENT,
            "internal": self._trace.SpanKind.INTERNAL,
            "consumer": self._trace.SpanKind.CONSUMER,
        }
        span = self._tracer.start_span(name, context, kinds[kind], attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span, context))
        before = _current.set(carrier["traceparent"])
        try:
            yield _Exported(span)
        except BaseException as error:
            span.record_exception(error)
            span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            _current.reset(before)
            span.end()

    def close(self) -> None:
        """Blocks while the last spans are exported, about LAST_EXPORT_SECONDS at most."""
        # Nothing else ends the exporter's repetitions, and a service must not wait long for a collector that is away.
        give_up = threading.Timer(LAST_EXPORT_SECONDS, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()


class _Exported:
    def __init__(self, span: "SdkSpan") -> None:
        self._span = span

    def set_attribute(self, name: str, value: str | float | bool) -> None:
        self._span.set_attribute(name, value)

    def set_failed(self, reason: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, reason)


def _exporter() -> "SpanExporter":
    common = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or common
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    print(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: set it to http/protobuf or grpc", file=sys.stderr)
    raise SystemExit(2)
