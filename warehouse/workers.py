"""Several server processes on one port: spawned (never forked once gRPC runs), started again when they die."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import structlog

from service_kit.child_process import start_tethered, stop

log = structlog.get_logger(__name__)
_POLL_SECONDS = 0.2
_RESTART_PAUSE_SECONDS = 1.0


def supervise(listen: str, count: int, grace_seconds: float, metrics_listen: str = "") -> None:
    """Run `count` workers on the address `listen` until SIGTERM or SIGINT, then stop them.

    Args:
        metrics_listen: where the first one shows its metrics, the next ones on the ports after it; empty: nowhere.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with _hold_port(listen) as address:
        places = [_nth_port(metrics_listen, number) for number in range(count)]
        workers = [_start(address, place) for place in places]
        try:
            while not stopping.wait(_POLL_SECONDS):
                workers = [
                    _restarted_if_dead(worker, address, place) for worker, place in zip(workers, places, strict=True)
                ]
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.terminate()
            for worker in workers:
                stop(worker, grace_seconds + 5)


class _hold_port:  # noqa: N801 - used like a function
    """Keeps the port for the workers, so that port 0 is the same free port for all of them."""

    def __init__(self, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((host, int(port)))

    def __enter__(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _nth_port(listen: str, number: int) -> str:
    """The address `number` ports after `listen`; port 0 and no address at all stay what they are."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + number}" if listen and int(port) else listen


def _start(address: str, metrics_listen: str) -> subprocess.Popen[bytes]:
    own = {"WAREHOUSE_LISTEN": address, "WAREHOUSE_WORKERS": "1", "WAREHOUSE_METRICS_LISTEN": metrics_listen}
    environment = {**os.environ, **own}
    return start_tethered([sys.executable, "-m", "warehouse", "serve"], environment=environment)


def _restarted_if_dead(worker: subprocess.Popen[bytes], address: str, metrics_listen: str) -> subprocess.Popen[bytes]:
    if worker.poll() is None:
        return worker
    log.error("worker_died", exit_status=worker.returncode, action="starting another")
    time.sleep(_RESTART_PAUSE_SECONDS)
    return _start(address, metrics_listen)
