"""Metrics, trace context and log lines, without a service around them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from service_kit.metrics import OTHER, SERIES_MAX, Gauge, Histogram, Metrics, Tally
from service_kit.tracing import (
    configure_tracing,
    current_traceparent,
    is_configured,
    trace_id,
    valid_traceparent,
)
from tests.kits.processes import ROOT, clean_environment

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def shown(*measures: Tally | Histogram | Gauge) -> dict[tuple[str, ...], float]:
    metrics = Metrics()
    metrics.add(*measures)
    exposed, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposed.decode())
        for sample in family.samples
    }


def test_a_tally_counts_per_combination_of_labels() -> None:
    tally = Tally("calls", "Calls.", ("method", "code"))
    tally.add("Reserve", "OK")
    tally.add("Reserve", "OK", amount=2)
    tally.add("Cancel", "OK")
    found = shown(tally)
    assert found["calls_total", "OK", "Reserve"] == 3
    assert found["calls_total", "OK", "Cancel"] == 1


def test_a_tally_without_labels_begins_at_zero() -> None:
    assert shown(Tally("calls", "Calls."))["calls_total",] == 0


def test_labels_that_have_no_end_are_counted_together() -> None:
    tally, histogram = Tally("calls", "Calls.", ("who",)), Histogram("seconds", "Seconds.", ("who",))
    for number in range(SERIES_MAX + 7):
        tally.add(str(number))
        histogram.observe(1, str(number))
    assert len(tally.values) == SERIES_MAX + 1
    assert tally.values[OTHER,] == 7
    assert shown(histogram)["seconds_count", OTHER] == 7


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_has_every_value_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram("size", "Sizes.", bounds=(1, 10, 50))
    for value in values:
        histogram.observe(value)
    found = shown(histogram)
    for bound in (1.0, 10.0, 50.0):
        assert found["size_bucket", str(bound)] == sum(value <= bound for value in values)
    assert found["size_bucket", "+Inf"] == found["size_count",] == len(values)
    assert found["size_sum",] == pytest.approx(sum(values))


def test_a_gauge_is_asked_when_somebody_reads_it() -> None:
    depth = {"stock": 1.0}
    gauge = Gauge("depth", "Depth.", lambda: {(name,): value for name, value in depth.items()}, ("queue",))
    depth["stock"] = 5
    assert shown(gauge)["depth", "stock"] == 5


@pytest.mark.parametrize(
    ("given_text", "passed_on"),
    [
        (TRACEPARENT, TRACEPARENT),
        ("cc" + TRACEPARENT[2:] + "-later-version", TRACEPARENT),
        ("", ""),
        (None, ""),
        ("ff" + TRACEPARENT[2:], ""),
        (TRACEPARENT.upper(), ""),
        ("00-" + "0" * 32 + TRACEPARENT[35:], ""),
        (TRACEPARENT[:36] + "0" * 16 + "-01", ""),
        (TRACEPARENT + "x", ""),
        (TRACEPARENT + "\n", ""),
    ],
)
def test_only_a_valid_traceparent_is_passed_on(given_text: str | None, passed_on: str) -> None:
    assert valid_traceparent(given_text) == passed_on


def test_without_an_exporter_the_callers_context_is_passed_on_as_it_is() -> None:
    tracing = configure_tracing("tests")
    assert not tracing.exports
    with tracing.span("work", "server", TRACEPARENT):
        assert current_traceparent() == TRACEPARENT
        with tracing.span("inner", "client"):
            assert current_traceparent() == TRACEPARENT
    assert current_traceparent() == ""


def test_where_nobody_traces_a_trace_begins() -> None:
    tracing = configure_tracing("tests")
    with tracing.span("work", "server", "nonsense"):
        first = current_traceparent()
        assert valid_traceparent(first) == first
    with tracing.span("work", "server", ""):
        assert trace_id(current_traceparent()) != trace_id(first)


async def test_the_context_belongs_to_its_task() -> None:
    tracing = configure_tracing("tests")

    async def work() -> str:
        with tracing.span("work", "server", ""):
            await asyncio.sleep(0)
            return current_traceparent()

    assert len(set(await asyncio.gather(work(), work(), work()))) == 3


@pytest.mark.parametrize(
    ("environment", "asked_for"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetry_is_used_where_the_environment_asks_for_it(
    environment: Mapping[str, str], asked_for: bool
) -> None:
    assert is_configured(environment) is asked_for


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment(environment),
        check=False,
    )


def test_without_an_exporter_nothing_of_opentelemetry_is_imported() -> None:
    code = """
import sys
import order_gateway.__main__, warehouse.__main__
from service_kit.tracing import configure_tracing
configure_tracing("tests")
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    ended = run(code)
    assert ended.returncode == 0, ended.stderr


def test_a_protocol_that_is_not_known_is_told() -> None:
    code = "from service_kit.tracing import configure_tracing; configure_tracing('tests')"
    ended = run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_PROTOCOL="http/json")
    assert ended.returncode == 2
    assert "set it to http/protobuf or grpc" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_log_lines_are_json_with_the_ids_of_their_call() -> None:
    code = """
import logging, structlog
from service_kit.logging import begin_call, configure_logging, note_call
configure_logging("tests", "INFO")
log = structlog.get_logger("own")
begin_call(request_id="r-1", method="from the call")
note_call(correlation_id="c-1")
log.debug("hidden")
log.info("shown", method="its own", odd=ValueError("x"))
logging.getLogger("foreign").warning("from %s", "elsewhere")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("bad")
"""
    ended = run(code)
    assert ended.stdout == ""
    own, foreign, bad = (json.loads(line) for line in ended.stderr.splitlines())
    ids = {"request_id": "r-1", "correlation_id": "c-1", "service": "tests"}
    assert own.items() >= {**ids, "event": "shown", "logger": "own", "level": "info", "method": "its own"}.items()
    assert own["odd"] == "ValueError('x')"
    assert own["timestamp"].endswith("Z")
    assert foreign.items() >= {**ids, "event": "from elsewhere", "logger": "foreign", "level": "warning"}.items()
    assert bad.items() >= {**ids, "event": "bad", "level": "error"}.items()
    assert "ZeroDivisionError" in bad["exception"]


def test_lines_of_one_turn_of_the_loop_go_out_together_and_in_order() -> None:
    code = """
import asyncio, os, structlog, sys
from service_kit.logging import configure_logging
configure_logging("tests", "INFO")
log = structlog.get_logger("own")
writes = []
sys.stderr = type("Counting", (), {"write": lambda _, text: writes.append(text), "flush": lambda _: None})()
async def main():
    log.info("one"); log.info("two")
    before = len(writes)
    await asyncio.sleep(0)
    after = len(writes)
    log.info("three"); log.warning("four")
    return before, after, len(writes)
counts = asyncio.run(main())
log.info("five")
print(*counts, len(writes), "".join(writes).count(chr(10)))
print(*(line.split('"event":"')[1].split('"')[0] for line in "".join(writes).splitlines()))
"""
    ended = run(code)
    assert ended.stdout.splitlines() == ["0 1 2 3 5", "one two three four five"], ended.stderr
