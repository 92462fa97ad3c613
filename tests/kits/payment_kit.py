"""The reference provider as a process, for tests, and what its books say."""

import json
import sqlite3
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from functools import cache
from typing import Any

import jsonschema_rs
import yaml

from development.free_ports import free_port
from development.service_process import ServiceProcess, http_answers
from tests.kits.processes import ROOT, Processes, clean_environment
from tests.kits.secrets_used import secret

PROVIDER_KEY = secret("the-key-of-this-shop")
CALLBACK_SECRET = secret("a-secret-of-these-two-tests")
CONTRACT = ROOT / "order_gateway" / "payments" / "provider_openapi.yaml"


class ReferenceProvider:
    """`python -m tests.kits.reference_provider`; it remembers everything when it is killed and started again.

    It ends with the thread that starts it.

    Args:
        callback_url: where its news go; empty: nowhere.
        chaos: the seed of the faults that it draws; None: none.
    """

    def __init__(self, processes: Processes, callback_url: str = "", chaos: int | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._state = processes.log_folder / f"provider-{self.port}.sqlite"
        command = [sys.executable, "-m", "tests.kits.reference_provider", "--port", str(self.port)]
        command += ["--state", str(self._state), "--key", PROVIDER_KEY, "--secret", CALLBACK_SECRET]
        command += ["--callback-url", callback_url, *([] if chaos is None else ["--chaos", str(chaos)])]
        self.process = ServiceProcess(
            "provider",
            command,
            is_healthy=lambda: http_answers(f"http://127.0.0.1:{self.port}/health"),
            environment=clean_environment({}),
            log_path=processes.log_folder / f"provider-{self.port}.log",
            directory=ROOT,
        )
        processes.started.append(self.process)
        self.process.start()

    @property
    def settings(self) -> dict[str, str]:
        """What a gateway needs to know of it."""
        return {
            "ORDERS_PAYMENTS__PROVIDER": "http",
            "ORDERS_PAYMENTS__HTTP__URL": self.url,
            "ORDERS_PAYMENTS__HTTP__API_KEY": PROVIDER_KEY,
            "ORDERS_PAYMENTS__HTTP__CALLBACK_SECRET": CALLBACK_SECRET,
        }

    def will(self, *script: tuple[str, str], forget: bool = False) -> None:
        """What happens to the next calls: pairs of an operation and a fault; `forget`: its books are empty again."""
        entries = [{"operation": operation, "fault": fault} for operation, fault in script]
        told = json.dumps({"script": entries, "forget": forget}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", told, method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200

    def rows(self, query: str) -> list[Any]:
        """What its books say, also while it is dead."""
        with closing(sqlite3.connect(self._state)) as connection:
            return connection.execute(query).fetchall()

    def states(self) -> dict[int, str]:
        """How each order's payment stands."""
        return {int(order): state for order, state in self.rows("SELECT order_id, state FROM payments") if order}

    def balance(self) -> dict[str, Decimal]:
        """What was taken and not given back, by currency."""
        total: dict[str, Decimal] = {}
        for kind, amount, currency in self.rows("SELECT kind, amount, currency FROM moves"):
            total[currency] = total.get(currency, Decimal(0)) + Decimal(amount) * (1 if kind == "captured" else -1)
        return total

    def moves_per_key(self) -> list[int]:
        """How often money moved for one payment in one direction; more than once is too often."""
        return [count for (count,) in self.rows("SELECT COUNT(*) FROM moves GROUP BY key, kind")]


@cache
def contract() -> Any:
    """The contract's document."""
    return yaml.safe_load(CONTRACT.read_text())


def violations(pointer: Sequence[str], value: object) -> list[str]:
    """What is wrong with a value, by the schema that stands at a place of the document."""
    found = contract()
    for part in pointer:
        found = found[part]
    validator = jsonschema_rs.Draft202012Validator({**found, "components": contract()["components"]})
    return [f"{'/'.join(pointer)}: {error.message}" for error in validator.iter_errors(value)]


def paths() -> Iterator[tuple[str, str, str]]:
    """Each operation's id, path and method."""
    for path, item in contract()["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield operation["operationId"], path, method
