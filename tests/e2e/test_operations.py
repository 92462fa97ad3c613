"""What operators see of both services as real processes: metrics, log lines and traces of one order."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

from development.free_ports import free_port
from tests.kits.processes import DEVELOPMENT_API_KEY, Processes, json_lines
from tests.kits.waiting import until
from tests.kits.warehouse_kit import sql
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
PATIENCE_SECONDS = 20
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {
    "X-API-Key": DEVELOPMENT_API_KEY,
    "X-Request-ID": "request-1",
    "X-Correlation-ID": "talk-1",
    "traceparent": f"00-{TRACE}-{PARENT}-01",
}
QUICK = {
    "ORDERS_RELAY__POLL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_INITIAL_SECONDS": "0.1",
    "ORDERS_RESERVE_DEADLINE_SECONDS": "1",
    "ORDERS_STEP_DEADLINE_SECONDS": "1",
    "ORDERS_LEASE_MARGIN_SECONDS": "0.5",
    "ORDERS_WAREHOUSE__ATTEMPT_TIMEOUT_SECONDS": "0.5",
    "ORDERS_METRICS__REFRESH_SECONDS": "0",
}


def order(quantity: int = 2) -> dict[str, Any]:
    item = {"product_id": 1, "warehouse_id": 1, "quantity": quantity}
    return {"user_id": 7, "shipping_address": "Street 1", "payment_method": "card", "items": [item]}


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str | int] = field(hash=False)


@dataclass
class Collector:
    """Receives spans as an OpenTelemetry collector does: OTLP over HTTP."""

    spans: list[Span] = field(default_factory=list)
    address: str = ""

    async def receive(self, request: web.Request) -> web.Response:
        exported = ExportTraceServiceRequest.FromString(await request.read())
        self.spans.extend(_spans(exported))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    def of(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def _spans(exported: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in exported.resource_spans:
        about = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(about["service.name"], span.name, *ids, attributes)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", made.receive)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=HEADERS) as made:
        yield made


async def metrics_of(session: aiohttp.ClientSession, base_url: str) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels, in the order of their names."""
    async with session.get(f"{base_url.removesuffix('/api/v1')}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def events_of(warehouse_database_url: str) -> list[str]:
    """The trace context of each reservation's event."""
    rows = sql(
        warehouse_database_url, "SELECT traceparent FROM outbox WHERE type = 'warehouse.reservation.reserved.v1'"
    )
    return [row[0] for row in rows]


async def test_an_order_is_seen_in_metrics_and_logs(
    processes: Processes, session: aiohttp.ClientSession, warehouse_database_url: str, orders_database_url: str
) -> None:
    warehouse, target = processes.warehouse(warehouse_database_url)
    await load_demo(target, "")
    gateway, base_url = processes.order_gateway(orders_database_url, target, settings=QUICK)
    async with session.post(f"{base_url}/orders", json=order()) as response:
        assert response.status == 201, await response.text()
    async with session.post(f"{base_url}/orders", json=order(500)) as response:
        assert response.status == 409
    async with session.get(f"{base_url}/nothing/here") as response:
        assert response.status == 404
    async with session.post(f"{base_url}/orders", json=order(), headers={"X-API-Key": "wrong"}) as response:
        assert response.status == 401
    found = await metrics_of(session, base_url)
    orders = "/api/v1/orders"
    assert found["order_gateway_http_requests_total", "POST", orders, "201"] == 1
    assert found["order_gateway_http_requests_total", "POST", orders, "409"] == 1
    assert found["order_gateway_http_requests_total", "POST", orders, "401"] == 1
    assert found["order_gateway_http_requests_total", "GET", "(unknown)", "404"] == 1
    assert found["order_gateway_http_request_duration_seconds_count", "POST", orders] == 3
    assert found["order_gateway_http_requests_in_flight",] == 1
    assert found["order_gateway_http_errors_total", "INSUFFICIENT_STOCK"] == 1
    assert found["order_gateway_warehouse_calls_total", "Reserve", "OK"] == 1
    assert found["order_gateway_warehouse_calls_total", "Reserve", "INSUFFICIENT_STOCK"] == 1
    assert found["order_gateway_orders", "pending"] == 1
    assert found["order_gateway_orders", "rejected"] == 1
    assert found["order_gateway_orders", "paid"] == 0
    assert found["order_gateway_intents_open", "reserve"] == 0
    assert found["order_gateway_database_up",] == 1
    await asyncio.to_thread(gateway.stop)
    await asyncio.to_thread(warehouse.stop)
    requests = [line for line in json_lines(gateway.log_path) if line["event"] == "request"]
    refused = next(line for line in requests if line["status"] == 409)
    ids = {"correlation_id": "talk-1", "trace_id": TRACE}
    assert (
        refused.items()
        >= {
            **ids,
            "request_id": "request-1",
            "method": "POST",
            "route": orders,
            "code": "INSUFFICIENT_STOCK",
            "caller": "development",
            "level": "info",
        }.items()
    )
    assert refused["ms"] > 0
    in_warehouse = next(line for line in json_lines(warehouse.log_path) if line["event"] == "call_refused")
    assert in_warehouse.items() >= {**ids, "method": "Reserve", "reason": "INSUFFICIENT_STOCK"}.items()


async def test_an_order_is_one_trace_through_both_services(
    processes: Processes,
    session: aiohttp.ClientSession,
    collector: Collector,
    warehouse_database_url: str,
    orders_database_url: str,
) -> None:
    export = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    warehouse, target = processes.warehouse(warehouse_database_url, settings=export)
    await load_demo(target, "")
    named = {**QUICK, **export, "OTEL_SERVICE_NAME": "shop"}
    gateway, base_url = processes.order_gateway(orders_database_url, target, settings=named)
    async with session.post(f"{base_url}/orders", json=order()) as response:
        assert response.status == 201, await response.text()
    await asyncio.to_thread(gateway.stop)
    await asyncio.to_thread(warehouse.stop)

    async def has_come() -> bool:
        return bool(collector.of("POST /api/v1/orders") and collector.of("warehouse.v1/Reserve"))

    await until(has_come)
    [request] = collector.of("POST /api/v1/orders")
    [call] = collector.of("warehouse Reserve")
    [serving] = collector.of("warehouse.v1/Reserve")
    assert (request.service, request.trace_id, request.parent_id) == ("shop", TRACE, PARENT)
    assert (call.service, call.trace_id, call.parent_id) == ("shop", TRACE, request.span_id)
    assert (serving.service, serving.trace_id, serving.parent_id) == ("warehouse", TRACE, call.span_id)
    assert request.attributes["http.response.status_code"] == 201
    assert call.attributes["warehouse.outcome"] == "OK"
    assert events_of(warehouse_database_url) == [f"00-{TRACE}-{serving.span_id}-01"]


async def test_orders_that_share_a_call_keep_their_own_traces(
    processes: Processes, session: aiohttp.ClientSession, warehouse_database_url: str, orders_database_url: str
) -> None:
    _, target = processes.warehouse(warehouse_database_url)
    await load_demo(target, "")
    _, base_url = processes.order_gateway(orders_database_url, target, settings=QUICK)
    traces = [f"00-{number:032x}-{PARENT}-01" for number in range(1, 31)]

    async def place(traceparent: str) -> int:
        async with session.post(f"{base_url}/orders", json=order(), headers={"traceparent": traceparent}) as response:
            return response.status

    assert set(await asyncio.gather(*map(place, traces))) == {201}
    found = await metrics_of(session, base_url)
    assert found["order_gateway_warehouse_calls_total", "BatchReserve", "OK"] >= 1
    assert sorted(events_of(warehouse_database_url)) == traces
    assert sql(orders_database_url, "SELECT step FROM intents") == [], "steps that are done are struck out"


async def test_what_the_relay_finishes_belongs_to_the_trace_of_its_request(
    processes: Processes,
    session: aiohttp.ClientSession,
    collector: Collector,
    warehouse_database_url: str,
    orders_database_url: str,
) -> None:
    warehouse, target = processes.warehouse(warehouse_database_url)
    await load_demo(target, "")
    export = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    gateway, base_url = processes.order_gateway(orders_database_url, target, settings={**QUICK, **export})
    async with session.post(f"{base_url}/orders", json=order()) as response:
        placed = (await response.json())["data"]
    await asyncio.to_thread(warehouse.stop)
    async with session.post(f"{base_url}/orders/{placed['id']}/cancel", json={}) as response:
        assert response.status == 200, await response.text()

    async def has_failed() -> bool:
        found = await metrics_of(session, base_url)
        return found.get(("order_gateway_relay_steps_total", "failed", "cancel"), 0) >= 1

    await until(has_failed)
    assert (await metrics_of(session, base_url))["order_gateway_intents_open", "cancel"] == 1
    assert (await metrics_of(session, base_url))["order_gateway_intents_oldest_age_seconds", "cancel"] > 0
    processes.warehouse(warehouse_database_url, port=int(target.rpartition(":")[2]))

    async def is_done() -> bool:
        found = await metrics_of(session, base_url)
        return found.get(("order_gateway_relay_steps_total", "done", "cancel"), 0) == 1

    await until(is_done)
    assert (await metrics_of(session, base_url))["order_gateway_intents_open", "cancel"] == 0
    await asyncio.to_thread(gateway.stop)
    spans = [span for span in collector.of("relay cancel") if span.trace_id == TRACE]
    assert len(spans) >= 2
    assert {span.attributes["order.id"] for span in spans} == {placed["id"]}
    retried = [line for line in json_lines(gateway.log_path) if line["event"] == "step_failed"]
    assert retried[0].items() >= {"correlation_id": "talk-1", "trace_id": TRACE, "order_id": placed["id"]}.items()


@pytest.mark.parametrize(("mode", "status"), [("grpc", 503), ("auto", 200)])
async def test_without_the_warehouse_a_service_that_can_do_without_it_is_ready(
    processes: Processes,
    session: aiohttp.ClientSession,
    orders_database_url: str,
    mode: str,
    status: int,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    settings = {**QUICK, "WAREHOUSE_GATEWAY": mode, "ORDERS_BREAKER__FAILURES_MAX": "1"}
    _, base_url = processes.order_gateway(orders_database_url, nobody, settings=settings)
    async with session.get(f"{base_url}/ready") as response:
        answer = await response.json()
        assert response.status == status
    if mode == "grpc":
        assert (answer["success"], answer["error"]["code"]) == (False, "NOT_READY")
        checks = {check["check"]: check for check in answer["error"]["details"]}
    else:
        assert (answer["success"], answer["data"]["status"]) == (True, "degraded")
        checks = answer["data"]["checks"]
    assert checks["database"]["ok"] is True
    assert checks["warehouse"]["ok"] is False
    assert checks["warehouse"]["needed"] is (mode == "grpc")
    assert checks["database"]["latency_seconds"] > 0
    assert (await metrics_of(session, base_url))["order_gateway_warehouse_breaker_open",] == 0
    async with session.post(f"{base_url}/orders", json=order()) as response:
        assert response.status == 503
    found = await metrics_of(session, base_url)
    assert found["order_gateway_mode", mode] == 1
    assert found["order_gateway_mode", "queued"] == 0
    assert found["order_gateway_warehouse_breaker_open",] == 1


async def test_metrics_are_shown_while_the_warehouse_is_away(
    processes: Processes, session: aiohttp.ClientSession, orders_database_url: str
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    gateway, base_url = processes.order_gateway(orders_database_url, nobody, settings=QUICK)
    async with session.post(f"{base_url}/orders", json=order()) as response:
        assert response.status == 503
    found = await metrics_of(session, base_url)
    assert found["order_gateway_http_requests_total", "POST", "/api/v1/orders", "503"] == 1
    assert found["order_gateway_http_errors_total", "WAREHOUSE_UNAVAILABLE"] == 1
    assert sum(count for name, count in found.items() if name[0] == "order_gateway_warehouse_calls_total") >= 1
    await asyncio.to_thread(gateway.stop)
    told = [line for line in json_lines(gateway.log_path) if line["event"] in ("warehouse_fault", "outside_fault")]
    assert len(told) >= 2
    for line in told:
        assert line.items() >= {"request_id": "request-1", "correlation_id": "talk-1", "trace_id": TRACE}.items()
