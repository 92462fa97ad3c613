"""A Galera cluster of three private MariaDB servers on loopback, whose nodes may be killed, frozen and brought back."""

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql

from development.free_ports import free_port
from development.local_server import USER, LocalServer, LocalServerSettings
from tests.kits.processes import ROOT
from tests.kits.warehouse_kit import sql

HOME = ROOT / ".local" / "galera"
"""Where `tools/setup galera` puts the provider and its scripts."""
NODES = 3
SYNCED_TIMEOUT_SECONDS = 60
EVICTION_SECONDS = 4
"""After so long a silence the others go on without a node."""
_SMALL = LocalServerSettings(buffer_pool_mib=64, redo_log_mib=64)


class GaleraNode(LocalServer):
    """One node. Started for the first time, or after it was killed, it takes all data from another node.

    Args:
        number: which of the addresses is its own.
        addresses: the ports by which the nodes find each other.
    """

    def __init__(self, folder: Path, number: int, addresses: list[int], password: str) -> None:
        super().__init__(folder, "mariadb", settings=_SMALL)
        self.name = f"node {number + 1}"
        self.makes_the_cluster = False
        self._number = number
        self._addresses = addresses
        self._shared_password = password
        self._receives_at = free_port(), free_port()

    def freeze(self) -> None:
        """Let it stand still (SIGSTOP); the others go on without it after EVICTION_SECONDS."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on; it comes back into the cluster by itself."""
        self._signal(signal.SIGCONT)

    def wait_until_synced(self, among: int = 1) -> None:
        """Wait until it takes part, with at least so many nodes."""
        deadline = time.monotonic() + SYNCED_TIMEOUT_SECONDS
        while not self._answers() or int(self.status("wsrep_cluster_size")) < among:
            assert time.monotonic() < deadline, f"{self.name} is not back in the cluster; see {self.error_log}"
            time.sleep(0.1)

    def status(self, name: str) -> str:
        """One of the server's status variables."""
        return str(sql(self.url, f"SHOW STATUS LIKE '{name}'")[0][1])

    def _signal(self, number: signal.Signals) -> None:
        assert self.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{HOME / 'usr/bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}

    def _password(self, user: str = USER) -> str:
        return f"{self._shared_password}-{user}"

    def _options(self) -> list[str]:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._addresses)
        data_port, changes_port = self._receives_at
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self._addresses[self._number]}",
            "ist.recv_addr": f"127.0.0.1:{changes_port}",
            "ist.recv_bind": f"127.0.0.1:{changes_port}",
            "gcache.size": "32M",
            "evs.keepalive_period": "PT0.5S",
            "evs.inactive_check_period": "PT0.5S",
            "evs.suspect_timeout": f"PT{EVICTION_SECONDS / 2:g}S",
            "evs.inactive_timeout": f"PT{EVICTION_SECONDS}S",
            "evs.install_timeout": f"PT{EVICTION_SECONDS}S",
        }
        return [
            *super()._options(),
            "--binlog-format=ROW",
            "--wsrep-on=ON",
            f"--wsrep-provider={HOME / 'usr/lib/libgalera_smm.so'}",
            "--wsrep-cluster-name=stock",
            f"--wsrep-cluster-address=gcomm://{hosts}",
            f"--wsrep-node-name=node{self._number + 1}",
            "--wsrep-node-address=127.0.0.1",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in provider.items())}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address=127.0.0.1:{data_port}",
            *(["--wsrep-new-cluster"] if self.makes_the_cluster else []),
        ]

    def _answers(self) -> bool:
        try:
            return self.status("wsrep_ready") == "ON" and self.status("wsrep_local_state_comment") == "Synced"
        except (pymysql.err.MySQLError, OSError):
            return False


class GaleraCluster:
    """Three nodes; all of it lives in one folder and with the thread that started it."""

    def __init__(self, folder: Path) -> None:
        assert (HOME / "usr/lib/libgalera_smm.so").exists(), "run `tools/setup galera`, or `make test-galera`"
        addresses, password = [free_port() for _ in range(NODES)], secrets.token_hex(16)
        self.nodes = [GaleraNode(folder / f"node{number + 1}", number, addresses, password) for number in range(NODES)]

    def start(self) -> None:
        """Make the cluster."""
        first, *others = self.nodes
        first.makes_the_cluster = True
        first.start()
        first.makes_the_cluster = False
        for node in others:
            node.start()

    def stop(self) -> None:
        """Stop all nodes, also those that are frozen; the first one last."""
        for node in reversed(self.nodes):
            if node.pid is not None:
                node.thaw()
            node.stop()

    def urls(self, database: str) -> list[str]:
        """The database, at each node."""
        return [f"{node.url}/{database}" for node in self.nodes]

    def wait_until_whole(self) -> None:
        """Start what does not run, and wait until every node takes part."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_synced(among=NODES)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()
