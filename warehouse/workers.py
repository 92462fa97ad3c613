"""Several server processes on one port: spawned (never forked once gRPC runs), started again when they die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import structlog

from service_kit.child_process import start_tethered, stop
from service_kit.ports import hold_alone, require_free

log = structlog.get_logger(__name__)
PACKAGE = __name__.removesuffix(".workers")
_POLL_SECONDS = 0.2
_RESTART_PAUSE_SECONDS = 1.0


def supervise(
    listen: str, count: int, grace_seconds: float, metrics_listen: str = "", check: Callable[[], None] = lambda: None
) -> None:
    """Run `count` workers on the address `listen` until SIGTERM or SIGINT, then stop them.

    Args:
        metrics_listen: where the first one shows its metrics, the next ones on the ports after it; empty: nowhere.
        check: called once the port is ours, before any worker is started.

    Raises: NotStarted: a port is taken, or what `check` found.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with hold_alone("WAREHOUSE_LISTEN", listen) as address:
        metrics_addresses = [_nth_port(metrics_listen, number) for number in range(count)]
        for metrics_address in filter(None, metrics_addresses):
            require_free("WAREHOUSE_METRICS_LISTEN", metrics_address)
        check()
        workers = [_start(address, metrics_address) for metrics_address in metrics_addresses]
        try:
            while not stopping.wait(_POLL_SECONDS):
                workers = [
                    _restarted_if_dead(worker, address, metrics_address)
                    for worker, metrics_address in zip(workers, metrics_addresses, strict=True)
                ]
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.terminate()
            for worker in workers:
                stop(worker, grace_seconds + 5)


def _nth_port(listen: str, number: int) -> str:
    """The address `number` ports after `listen`; port 0 and no address at all stay what they are."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + number}" if listen and int(port) else listen


def _start(address: str, metrics_listen: str) -> subprocess.Popen[bytes]:
    own = {"WAREHOUSE_LISTEN": address, "WAREHOUSE_WORKERS": "1", "WAREHOUSE_METRICS_LISTEN": metrics_listen}
    command = [sys.executable, "-m", PACKAGE, "serve", "--worker-of", str(os.getpid())]
    return start_tethered(command, environment={**os.environ, **own})


def _restarted_if_dead(worker: subprocess.Popen[bytes], address: str, metrics_listen: str) -> subprocess.Popen[bytes]:
    if worker.poll() is None:
        return worker
    log.error("worker_died", exit_status=worker.returncode, action="starting another")
    time.sleep(_RESTART_PAUSE_SECONDS)
    return _start(address, metrics_listen)
