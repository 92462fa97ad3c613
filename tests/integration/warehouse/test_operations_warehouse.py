"""What the warehouse tells about itself: metrics, and log lines of real processes."""

import asyncio
import time
from collections.abc import Mapping

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from development.free_ports import free_port
from service_kit.database.database import Database, RaceLost
from stockwarden_client.v1 import warehouse_pb2 as pb
from tests.kits.processes import Processes, json_lines
from tests.kits.warehouse_kit import calling, make_overdue, refused, reserve, serving, sql

pytestmark = pytest.mark.sql
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(address: str, accept: str = "text/plain") -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/metrics", headers={"Accept": accept}) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(accept)
        return await response.text()


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


async def test_calls_refusals_batches_and_sweeps_are_counted(warehouse_database_url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with serving(warehouse_database_url, metrics_listen=address, sweep_seconds=0.05) as calls:
        await calls.keep({(1, 1): 5})
        held = await calls.hold((1, 1, 2))
        assert (await refused(calls.holds.Reserve(reserve((1, 1, 9))))).reason == "INSUFFICIENT_STOCK"
        assert (await refused(calls.holds.Reserve(reserve()))).code == "INVALID_ARGUMENT"
        await calls.holds.BatchReserve(pb.BatchReserveRequest(requests=[reserve((1, 1, 1)), reserve((2, 1, 1))]))
        await calls.holds.CheckStock(pb.CheckStockRequest(items=[pb.Line(product_id=1, warehouse_id=1, quantity=1)]))
        await make_overdue(warehouse_database_url, held.reservation_id)
        deadline = time.monotonic() + 10
        while value(found := samples(await scrape(address)), "warehouse_holds_expired_total") < 1:
            assert time.monotonic() < deadline, "the sweeper never came"
            await asyncio.sleep(0.02)
    assert value(found, "warehouse_calls_total", method="Reserve", code="OK") == 1
    assert value(found, "warehouse_calls_total", method="Reserve", code="FAILED_PRECONDITION") == 1
    assert value(found, "warehouse_calls_total", method="Reserve", code="INVALID_ARGUMENT") == 1
    assert value(found, "warehouse_calls_total", method="BatchReserve", code="OK") == 1
    assert value(found, "warehouse_call_duration_seconds_count", method="Reserve") == 1
    assert value(found, "warehouse_refusals_total", reason="INSUFFICIENT_STOCK") == 1
    assert value(found, "warehouse_refusals_total", reason="PRODUCT_NOT_FOUND") == 1
    # AddStock, two Reserves, a BatchReserve of two together, an Expire.
    assert value(found, "warehouse_batch_size_sum", batcher="stock") == 6
    assert value(found, "warehouse_batch_size_count", batcher="stock") == 5
    assert value(found, "warehouse_batch_size_sum", batcher="levels") == 1
    assert value(found, "warehouse_queue_depth", batcher="stock") == 0
    assert value(found, "database_transaction_duration_seconds_count") >= 5
    assert value(found, "database_connections_in_use") >= 2
    assert value(found, "warehouse_sweep_age_seconds") < 5
    assert value(found, "process_open_fds") > 0


async def test_the_lag_of_a_sweep_is_how_late_the_oldest_hold_was(warehouse_database_url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with serving(warehouse_database_url, metrics_listen=address) as calls:
        await calls.keep({(1, 1): 5})
        await calls.hold((1, 1, 2))
        await make_overdue(warehouse_database_url)
        await calls.holds.SweepExpired(pb.SweepExpiredRequest())
        assert 1 <= value(samples(await scrape(address)), "warehouse_sweep_lag_seconds") < 10
        await calls.holds.SweepExpired(pb.SweepExpiredRequest())
        assert value(samples(await scrape(address)), "warehouse_sweep_lag_seconds") == 0


async def test_prometheus_may_ask_for_open_metrics(warehouse_database_url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with serving(warehouse_database_url, metrics_listen=address):
        families = open_metrics(await scrape(address, "application/openmetrics-text"))  # type: ignore[no-untyped-call]
        assert "warehouse_calls" in {family.name for family in families}


async def test_retries_are_counted_by_cause(warehouse_database_url: str) -> None:
    database = Database(warehouse_database_url)
    tries = 0

    async def attempt() -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RaceLost
        return tries

    try:
        assert await database.retry(attempt) == 3
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for measure in database.measures
            for family in measure.read()
            for sample in family.samples
        }
    finally:
        await database.close()
    assert found["database_transaction_retries_total", "race"] == 2
    assert found["database_transaction_duration_seconds_count",] == 3


async def test_events_carry_the_trace_of_their_call(warehouse_database_url: str) -> None:
    async with serving(warehouse_database_url) as calls:
        await calls.keep({(1, 1): 5})
        request = reserve((1, 1, 1), order_id="traced")
        await calls.holds.Reserve(request, metadata=(("traceparent", TRACEPARENT),))
        replayed = await calls.holds.Reserve(request, metadata=(("traceparent", TRACEPARENT.replace("b7", "c7")),))
        assert replayed.reservation.order_id == "traced"
        await calls.hold((1, 1, 1), order_id="untraced")
        await calls.holds.Reserve(reserve((1, 1, 1), order_id="odd"), metadata=(("traceparent", "nonsense"),))
        own = TRACEPARENT.replace("b7", "d7")
        both = [reserve((1, 1, 1), order_id="own", traceparent=own), reserve((1, 1, 1), order_id="shared")]
        batch = pb.BatchReserveRequest(requests=both)
        await calls.holds.BatchReserve(batch, metadata=(("traceparent", TRACEPARENT),))
    rows = sql(warehouse_database_url, "SELECT subject, traceparent FROM outbox WHERE type LIKE '%reserved%'")
    assert dict(rows) == {"traced": TRACEPARENT, "untraced": "", "odd": "", "own": own, "shared": TRACEPARENT}


@pytest.mark.e2e
async def test_refused_and_failed_calls_leave_lines_with_their_ids(
    processes: Processes, warehouse_database_url: str
) -> None:
    limits = {"WAREHOUSE_REFUSAL_LINES_PER_SECOND_MAX": "5"}
    server, target = processes.warehouse(warehouse_database_url, settings=limits)
    metadata = (("x-correlation-id", "talk-1"), ("traceparent", TRACEPARENT))
    async with calling(target) as calls:
        await calls.keep({(1, 1): 1})
        await calls.holds.Reserve(reserve((1, 1, 1), request_id="fine"), metadata=metadata)
        await refused(calls.holds.Reserve(reserve((1, 1, 1), request_id="too-late"), metadata=metadata))
        await refused(calls.holds.Reserve(reserve((1, 1, 0), request_id="none"), metadata=metadata))
        for _ in range(20):
            await refused(calls.holds.Reserve(reserve((1, 1, 1))))
    server.stop()
    lines = json_lines(server.log_path)
    of_calls = [line for line in lines if line["event"] == "call_refused"]
    assert (
        of_calls[0].items()
        >= {
            "level": "info",
            "method": "Reserve",
            "request_id": "too-late",
            "correlation_id": "talk-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "code": "FAILED_PRECONDITION",
            "reason": "INSUFFICIENT_STOCK",
            "service": "warehouse",
        }.items()
    )
    assert of_calls[1].items() >= {"request_id": "none", "code": "INVALID_ARGUMENT"}.items()
    assert len(of_calls) < 22
    assert not any(line.get("request_id") == "fine" for line in lines)


@pytest.mark.e2e
async def test_answered_calls_are_logged_at_debug_level_only(processes: Processes, warehouse_database_url: str) -> None:
    server, target = processes.warehouse(warehouse_database_url, settings={"WAREHOUSE_LOG_LEVEL": "DEBUG"})
    async with calling(target) as calls:
        await calls.keep({(1, 1): 1})
        await calls.holds.Reserve(reserve((1, 1, 1), request_id="fine"))
    server.stop()
    answered = [line for line in json_lines(server.log_path) if line["event"] == "call_answered"]
    assert [line["method"] for line in answered] == ["CreateProduct", "CreateWarehouse", "AddStock", "Reserve"]
    assert answered[-1]["request_id"] == "fine"


@pytest.mark.e2e
async def test_each_worker_shows_its_metrics_on_a_port_of_its_own(
    processes: Processes, warehouse_database_url: str
) -> None:
    first = free_port()
    places = {"WAREHOUSE_WORKERS": "2", "WAREHOUSE_METRICS_LISTEN": f"127.0.0.1:{first}"}
    processes.warehouse(warehouse_database_url, settings=places)
    for port in (first, first + 1):
        deadline = time.monotonic() + 20
        while not await _is_there(port):
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            await asyncio.sleep(0.05)
        assert value(samples(await scrape(f"127.0.0.1:{port}")), "warehouse_queue_depth", batcher="stock") == 0


async def _is_there(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
