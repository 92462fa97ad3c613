"""Long modules of tests begin first, and a run ends with a table of what took how long. A plugin of pytest.

Whoever takes the longest module last makes all others wait for it. With `--dist loadfile --no-loadscope-reorder` a
process is given the next module in the order of collection; without the latter in that of their numbers of tests, of
which the longest modules have few.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

LONG_MODULES = (
    "e2e/test_modes.py",
    "integration/service_kit/test_operators_start.py",
    "e2e/test_development_run.py",
    "contract/test_gateway_modes.py",
    "e2e/test_distance.py",
    "integration/order_gateway/http/test_order_door.py",
    "e2e/test_payments.py",
    "attacks/test_fuzz_short.py",
    "e2e/test_order_flow.py",
    "attacks/test_gateway_shares.py",
    "integration/service_kit/test_operators_database.py",
    "attacks/test_grpc_frames.py",
    "e2e/test_operations.py",
    "attacks/test_warehouse_shares.py",
    "e2e/test_warehouse_processes.py",
    "e2e/test_distributions.py",
    "faults/test_everything_dies.py",
    "unit/kits/test_secrets_used.py",
    "integration/warehouse/rpc/test_warehouse_door.py",
    "e2e/test_openapi.py",
    "faults/test_hostile_text.py",
    "faults/test_payments_faults.py",
    "integration/order_gateway/test_orders_commands.py",
    "integration/order_gateway/audit/test_restored_databases.py",
    "attacks/test_gateway_connections.py",
    "integration/order_gateway/http/test_request_garbage.py",
    "faults/test_warehouse_faults.py",
    "integration/development/test_local_server.py",
    "integration/warehouse/rpc/test_answer_sizes.py",
    "integration/service_kit/database/test_character_sets.py",
    "integration/warehouse/rpc/test_warehouse_requests.py",
    "attacks/test_input_costs.py",
    "attacks/test_http_mishaps.py",
    "attacks/test_prices.py",
    "e2e/test_page.py",
    "faults/test_failover.py",
    "attacks/test_rapid_reset.py",
    "integration/order_gateway/payments/test_payment_provider.py",
)
"""Below tests/, the longest first; all others are short enough to fill what is left."""
SHOWN_MODULES = 25
_TESTS = Path(__file__).resolve().parents[1]
_PLACES = {_TESTS / name: place for place, name in enumerate(LONG_MODULES)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first; within a module nothing changes."""
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show how long each module took, and how long each process was at work, if several were."""
    reports = [
        report for several in terminalreporter.stats.values() for report in several if hasattr(report, "duration")
    ]
    lines = list(summary(reports))
    if lines:
        terminalreporter.write_sep("=", "seconds per module, set-up and clean-up included")
        for line in lines:
            terminalreporter.write_line(line)


def summary(reports: Iterable[Any]) -> Iterable[str]:
    """The lines to show; each of the reports has a `duration` (s) and a `nodeid`, and may have a `worker_id`."""
    modules: defaultdict[str, float] = defaultdict(float)
    processes: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        modules[report.nodeid.partition("::")[0]] += report.duration
        processes[getattr(report, "worker_id", "")] += report.duration
    for name, seconds in _largest(modules)[:SHOWN_MODULES]:
        yield f"{seconds:8.1f} {name}"
    if rest := _largest(modules)[SHOWN_MODULES:]:
        yield f"{sum(map(itemgetter(1), rest)):8.1f} {len(rest)} others"
    if len(processes) > 1:
        yield "at work: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(processes.items()))


def _largest(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=itemgetter(1), reverse=True)
