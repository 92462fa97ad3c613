"""The API's document is true: schemathesis, which reads it, finds no answer that it does not describe, and no 5xx."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
SEED = "20261121"
SECONDS_MAX = 600
"""Far more than it needs: what it tries does not depend on how fast the machine is."""
RANDOM_CASES_PER_OPERATION = 30
"""Besides those that are the same each time: the document's examples, and every constraint, kept and broken."""
CASES_MIN = 3000
OPERATIONS_MIN = 32
PROMISED = """
POST /orders
GET /orders
GET /orders/{id}
PATCH /orders/{id}/status
POST /orders/{id}/payment
POST /orders/{id}/pay
POST /orders/{id}/cancel
GET /orders/{id}/reservations
GET /orders/{id}/events
POST /reservations
POST /reservations/{id}/deactivate
POST /reservations/cleanup
GET /reservations/{id}
GET /inventory/{product_id}/{warehouse_id}
POST /inventory/get
POST /inventory/batch
POST /inventory/check-availability
POST /inventory/reserve
POST /inventory/confirm
POST /inventory/commit
POST /inventory/release
POST /inventory/cancel
POST /inventory/update
GET /products
GET /products/{id}
GET /config/warehouse
PUT /config/warehouse
GET /warehouse/health
POST /auth/token
POST /payments/callbacks
GET /refunds
POST /refunds/{id}/confirm
GET /health
GET /ready
"""
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture
def base_url(processes: Processes, warehouse_database_url: str, orders_database_url: str) -> str:
    _process, target = processes.warehouse(warehouse_database_url)
    asyncio.run(load_demo(target, ""))
    # It tries each operation without a key and with a wrong one, from one address.
    many_guesses = {"ORDERS_WRONG_KEYS_PER_MINUTE_MAX": "1000000"}
    return processes.order_gateway(orders_database_url, target, settings=many_guesses)[1]


def test_schemathesis_finds_nothing(base_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    # More workers would not be faster, and Python 3.11 parses source in two threads at the expense of both.
    command = [
        *(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(CONFIG),
            "run",
            f"{base_url}/openapi.json",
        ),
        *("--header", f"X-API-Key: {DEVELOPMENT_API_KEY}", "--checks", "all", "--workers", "1", "--seed", SEED),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(RANDOM_CASES_PER_OPERATION)),
        *("--continue-on-failure", "--warnings", "off", "--no-color"),
        *("--report", "json", "--report-json-path", str(report)),
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]
    summary: Any = json.loads(report.read_text())
    assert summary["operations"]["tested"] == summary["operations"]["selected"] >= OPERATIONS_MIN
    assert summary["test_cases"]["generated"] >= CASES_MIN


def test_the_document_has_all_promised_routes(base_url: str) -> None:
    with urllib.request.urlopen(f"{base_url}/openapi.json") as answer:
        document = json.load(answer)
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    promised = {tuple(line.split()) for line in PROMISED.strip().splitlines()}
    assert promised <= {(method, path.removeprefix("/api/v1")) for method, path in described}
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
