"""The whole system as real processes: a database server, two warehouses behind one port, two order gateways.

Whatever is started here ends with the thread that started it, so all of this is called from one thread that lives
as long as the system.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from development.local_server import LocalServer
from development.server_programs import Flavour
from development.service_process import ServiceDidNotStart, ServiceProcess
from service_kit.database import migrating
from tests.kits.processes import ROOT, Processes, clean_environment
from tests.kits.small_server import SMALL

OUTAGE_SECONDS = 1.5
"""At most so long a process stays dead before it is started again, and the system in peace before the next blow."""
FREEZE_SECONDS = 1.0
FREEZE_SHARE = 0.25
TWO_AT_ONCE_SHARE = 0.25
GATEWAY_SETTINGS = {
    "ORDERS_GATEWAY": "auto",
    "ORDERS_LOG_LEVEL": "WARNING",
    "ORDERS_RELAY__POLL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_INITIAL_SECONDS": "0.1",
    "ORDERS_RELAY__RETRY_WAIT_MAX_SECONDS": "1",
    "ORDERS_RELAY__LEASE_SECONDS": "3",
    "ORDERS_RESERVE_DEADLINE_SECONDS": "1",
    "ORDERS_STEP_DEADLINE_SECONDS": "1",
    "ORDERS_CHARGE_TIMEOUT_SECONDS": "1",
    "ORDERS_LEASE_MARGIN_SECONDS": "0.5",
    "ORDERS_HOLD_GRACE_SECONDS": "3",
    # For so long, a customer whose gateway died hears that the order is being worked on.
    "ORDERS_IDEMPOTENCY_CLAIM_SECONDS": "5",
    "ORDERS_DATABASE__RETRY_FOR_SECONDS": "2",
    "ORDERS_DATABASE__TRANSACTION_TIMEOUT_SECONDS": "3",
    "ORDERS_WAREHOUSE__ATTEMPT_TIMEOUT_SECONDS": "0.5",
    "ORDERS_WAREHOUSE__CONNECTIONS": "2",
    "ORDERS_SIMULATOR__DELAY_SECONDS": "0.02",
    "ORDERS_SIMULATOR__LOST_ANSWER_RATE": "0.05",
}
PAYMENT_WINDOWS_SECONDS = (4, 900)
"""One gateway's orders run out during the test, the other's don't."""


class WholeSystem:
    """Everything running, with empty databases.

    Attributes:
        parts: the processes that may be killed, by name.
        gateways: the base URLs.
    """

    def __init__(self, folder: Path, flavour: Flavour, processes: Processes) -> None:
        self._processes = processes
        self.server = LocalServer(folder, flavour, settings=SMALL)
        self.server.start()
        self.warehouse_url, self.orders_url = f"{self.server.url}/warehouse", f"{self.server.url}/orders"
        migrating.upgrade(self.warehouse_url, "warehouse")
        migrating.upgrade(self.orders_url, "orders")
        first, self.target = processes.warehouse(self.warehouse_url)
        second, _ = processes.warehouse(self.warehouse_url, port=int(self.target.rpartition(":")[2]))
        self.parts: dict[str, LocalServer | ServiceProcess] = {
            "database": self.server,
            "warehouse 1": first,
            "warehouse 2": second,
        }
        self.gateways: list[str] = []
        for number, seconds in enumerate(PAYMENT_WINDOWS_SECONDS, 1):
            settings = {**GATEWAY_SETTINGS, "ORDERS_PAYMENT_WINDOW_SECONDS": str(seconds)}
            gateway, base_url = processes.order_gateway(self.orders_url, self.target, settings=settings)
            self.parts[f"gateway {number}"] = gateway
            self.gateways.append(base_url)

    def start_all(self) -> None:
        """Start what does not run, and wait until everything is healthy."""
        self.server.start()
        for part in self._services():
            # It may be about to give up, because the database was dead when it began.
            with suppress(ServiceDidNotStart):
                part.wait_until_healthy()
            part.start()

    def audits(self) -> Mapping[str, tuple[int, str]]:
        """What both audits print, with their exit statuses."""
        return {
            "warehouse": _audit("warehouse", {"WAREHOUSE_DATABASE_URL": self.warehouse_url}),
            "order_gateway": _audit(
                "order_gateway",
                {
                    "ORDERS_DATABASE_URL": self.orders_url,
                    "ORDERS_WAREHOUSE_TARGET": self.target,
                    "ORDERS_PROFILE": "development",
                },
            ),
        }

    def close(self) -> None:
        """Stop everything, the database last."""
        self._processes.stop_all()
        self.server.stop()

    def _services(self) -> list[ServiceProcess]:
        return [part for part in self.parts.values() if isinstance(part, ServiceProcess)]


class Killer:
    """Kills and freezes the parts of a system at random, each as often as the others, and starts them again.

    Attributes:
        deaths: how often each part was killed.
        freezes: how often each was frozen.
    """

    def __init__(self, system: WholeSystem, chance: Random) -> None:
        self._system = system
        self._chance = chance
        self.deaths: Counter[str] = Counter()
        self.freezes: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Go on for `seconds`, and until every part has been killed at least once."""
        until = time.monotonic() + seconds
        names = list(self._system.parts)
        while time.monotonic() < until or not all(self.deaths[name] for name in names):
            self._chance.shuffle(names)
            waiting = list(names)
            while waiting:
                count = 2 if self._chance.random() < TWO_AT_ONCE_SHARE else 1
                victims, waiting = waiting[:count], waiting[count:]
                if self._chance.random() < FREEZE_SHARE:
                    self._freeze(victims)
                else:
                    self._kill(victims)
                self._wait()

    def _kill(self, victims: list[str]) -> None:
        for name in victims:
            self._system.parts[name].kill()
            self.deaths[name] += 1
        self._wait()
        self._revive()

    def _freeze(self, victims: list[str]) -> None:
        pids = [pid for name in victims if (pid := self._system.parts[name].pid) is not None]

        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        time.sleep(FREEZE_SECONDS)
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        self.freezes.update(victims)

    def _revive(self) -> None:
        """Start what does not run, also what gave up because something else was dead."""
        for part in self._system.parts.values():
            part.launch()

    def _wait(self) -> None:
        time.sleep(self._chance.uniform(0, OUTAGE_SECONDS))
        self._revive()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _audit(module: str, settings: Mapping[str, str]) -> tuple[int, str]:
    command = [sys.executable, "-m", module, "audit"]
    environment = clean_environment(settings)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
