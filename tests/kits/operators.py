"""The services' commands as an operator runs them: how they end, and what they say."""

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.kits.processes import ROOT, clean_environment

TIMEOUT_SECONDS = 60
PREFIXES = {"warehouse": "WAREHOUSE_", "order_gateway": "ORDERS_"}
Command = tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the lines it wrote on standard error, without those of the log."""

    status: int
    lines: list[str]

    def told(self) -> str:
        """Its one line; fails if it said more, or ended by a traceback."""
        assert len(self.lines) == 1, "\n".join(self.lines)
        return self.lines[0]


def end_of(module: str, *arguments: str, settings: Mapping[str, str]) -> Ended:
    """Run `python -m module ...` until it ends."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Ended(done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("{")])


def ends_of(commands: list[Command], settings: Mapping[str, str]) -> list[Ended]:
    """The same settings for several commands, at the same time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda command: end_of(*command, settings=settings), commands))


def of_both(url_of_warehouse: str, url_of_orders: str) -> dict[str, str]:
    """Settings by which both services find their databases, and would serve."""
    return {
        "WAREHOUSE_DATABASE_URL": url_of_warehouse,
        "WAREHOUSE_LISTEN": "127.0.0.1:0",
        "ORDERS_DATABASE_URL": url_of_orders,
        "ORDERS_LISTEN": "127.0.0.1:0",
        "ORDERS_PROFILE": "development",
        "ORDERS_DATABASE__RETRY_FOR_SECONDS": "0.5",
        "WAREHOUSE_DATABASE__RETRY_FOR_SECONDS": "0.5",
    }
