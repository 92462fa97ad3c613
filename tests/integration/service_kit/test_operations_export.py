"""Spans go where the standard environment variables say; metrics are shown without the database."""

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from order_gateway.metrics import GatewayMetrics
from order_gateway.settings import MetricsSettings
from service_kit.database.database import Database
from service_kit.exposition import exposed
from service_kit.metrics import Metrics
from service_kit.starting import NotStarted
from service_kit.tracing import LAST_EXPORT_SECONDS, configure_tracing, current_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(TraceServiceServicer):
    """Receives spans as an OpenTelemetry collector does: OTLP over gRPC."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.requests.append(request)
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> dict[str, Span]:
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    made = Collector()
    add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
    yield made
    server.stop(None).wait()


def test_spans_are_exported_over_grpc_with_their_family(collector: Collector) -> None:
    tracing = configure_tracing("shop")
    assert tracing.exports
    with tracing.span("outer", "server", f"00-{TRACE}-{PARENT}-01", {"http.route": "/orders"}) as outer:
        seen_outside = current_traceparent()
        with tracing.span("inner", "client"):
            seen_inside = current_traceparent()
        outer.set_failed("WAREHOUSE_UNAVAILABLE")
    with pytest.raises(ZeroDivisionError), tracing.span("broken", "consumer", ""):
        raise ZeroDivisionError
    assert current_traceparent() == ""
    tracing.close()
    outside, inside, broken = (collector.spans[name] for name in ("outer", "inner", "broken"))
    assert (outside.trace_id.hex(), outside.parent_span_id.hex()) == (TRACE, PARENT)
    assert (inside.trace_id.hex(), inside.parent_span_id) == (TRACE, outside.span_id)
    assert seen_outside == f"00-{TRACE}-{outside.span_id.hex()}-01"
    assert seen_inside == f"00-{TRACE}-{inside.span_id.hex()}-01"
    assert broken.parent_span_id == b""
    assert (outside.kind, inside.kind, broken.kind) == (
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_CLIENT,
        Span.SPAN_KIND_CONSUMER,
    )
    assert outside.status.message == "WAREHOUSE_UNAVAILABLE"
    assert broken.status.code == Status.STATUS_CODE_ERROR
    assert inside.status.code == Status.STATUS_CODE_UNSET
    resource = collector.requests[0].resource_spans[0].resource
    about = {item.key: item.value.string_value for item in resource.attributes}
    assert about.items() >= {"service.name": "shop", "deployment.environment.name": "tests"}.items()


def test_an_unsampled_trace_stays_unsampled(collector: Collector) -> None:
    tracing = configure_tracing("shop")
    with tracing.span("outer", "server", f"00-{TRACE}-{PARENT}-00"):
        assert current_traceparent().startswith(f"00-{TRACE}-")
        assert current_traceparent().endswith("-00")
    tracing.close()
    assert collector.spans == {}


def test_a_collector_that_is_away_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        tracing = configure_tracing("shop")
        with tracing.span("lost", "server", ""):
            pass
        started = time.monotonic()
        tracing.close()
    assert time.monotonic() - started < LAST_EXPORT_SECONDS + 2


async def test_a_taken_address_for_metrics_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NotStarted, match=f"METRICS: can't listen on {address}: the port is taken"):
            async with exposed(Metrics(), "METRICS", address, "tested"):
                pass


async def test_metrics_are_shown_while_the_database_is_away() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        database = Database(f"mysql://stock:none@127.0.0.1:{nobody.getsockname()[1]}/orders")
        metrics = GatewayMetrics(database, MetricsSettings(query_timeout_seconds=0.2))
        await metrics.look()
        shown = metrics.exposition("")[0].decode()
        await database.close()
    assert "order_gateway_database_up 0.0" in shown
    assert "order_gateway_orders{" not in shown
    assert "order_gateway_http_requests_in_flight 0.0" in shown
