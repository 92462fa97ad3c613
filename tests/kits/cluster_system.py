"""The whole system on a cluster: a warehouse and an order gateway at each of three database nodes."""

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

from development.service_process import ServiceDidNotStart, ServiceProcess
from service_kit.database import migrating
from tests.kits.galera import EVICTION_SECONDS, GaleraCluster, GaleraNode
from tests.kits.processes import Processes
from tests.kits.whole_system import GATEWAY_SETTINGS, WholeSystem

PEACE_SECONDS = 1.0
SHORT_FREEZE_SECONDS = 1.0
"""Everybody waits for the node, and then goes on with it."""
LONG_FREEZE_SECONDS = EVICTION_SECONDS + 2.0
"""The others go on without it; it comes back and takes what it has missed."""
PAYMENT_WINDOWS_SECONDS = (6, 900, 900)


class ClusterSystem(WholeSystem):
    """As a whole system, but for its database, which is a cluster.

    Attributes:
        cluster: the database.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._processes = processes
        self.cluster = GaleraCluster(folder)
        try:
            self.cluster.start()
            warehouse_urls, orders_urls = self.cluster.urls("warehouse"), self.cluster.urls("orders")
            self.warehouse_url, self.orders_url = warehouse_urls[0], orders_urls[0]
            migrating.upgrade(self.warehouse_url, "warehouse")
            migrating.upgrade(self.orders_url, "orders")
            self.parts = {node.name: node for node in self.cluster.nodes}
            self.gateways = []
            targets = []
            for number, seconds in enumerate(PAYMENT_WINDOWS_SECONDS, 1):
                warehouse, target = processes.warehouse(warehouse_urls[number - 1])
                settings = {**GATEWAY_SETTINGS, "ORDERS_PAYMENT_WINDOW_SECONDS": str(seconds)}
                gateway, base_url = processes.order_gateway(orders_urls[number - 1], target, settings=settings)
                self.parts |= {f"warehouse {number}": warehouse, f"gateway {number}": gateway}
                self.gateways.append(base_url)
                targets.append(target)
            self.target = targets[0]
        except BaseException:
            self.cluster.stop()
            raise

    def start_all(self) -> None:
        """Start what does not run, and wait until everything is healthy."""
        self.cluster.wait_until_whole()
        for part in self._services():
            with suppress(ServiceDidNotStart):
                part.wait_until_healthy()
            part.start()

    def close(self) -> None:
        """Stop everything, the database last."""
        self._processes.stop_all()
        self.cluster.stop()


class ClusterKiller:
    """Kills nodes and services one at a time, freezes nodes for a short and for a long time, brings each back.

    Attributes:
        deaths: how often each part was killed.
        freezes: how often each was frozen.
    """

    def __init__(self, system: ClusterSystem, chance: Random) -> None:
        self._system = system
        self._chance = chance
        self.deaths: Counter[str] = Counter()
        self.freezes: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Go on for `seconds`, and at least until every part was killed and every node frozen."""
        until = time.monotonic() + seconds
        while time.monotonic() < until or not self.deaths:
            parts = list(self._system.parts.items())
            self._chance.shuffle(parts)
            for name, part in parts:
                self.deaths[name] += 1
                if isinstance(part, GaleraNode):
                    self._strike_node(part)
                else:
                    part.kill()
                    self._revive_services()
                time.sleep(self._chance.uniform(0, PEACE_SECONDS))

    def _strike_node(self, node: GaleraNode) -> None:
        node.kill()
        time.sleep(self._chance.uniform(0, PEACE_SECONDS))
        node.start()
        self._revive_services()
        time.sleep(self._chance.uniform(0, PEACE_SECONDS))
        node.freeze()
        self.freezes[node.name] += 1
        time.sleep(self._chance.choice((SHORT_FREEZE_SECONDS, LONG_FREEZE_SECONDS)))
        node.thaw()
        node.wait_until_synced()
        self._revive_services()

    def _revive_services(self) -> None:
        """Start what does not run, also what gave up because its node was dead."""
        for part in self._system.parts.values():
            if isinstance(part, ServiceProcess):
                part.launch()
