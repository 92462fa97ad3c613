"""A service as a child process: started, known to be healthy, killed, stopped, with its log at hand."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from development.child import Child
from development.private_files import append_private, make_private_folder
from service_kit import child_process

PROBE_TIMEOUT_SECONDS = 2
NO_PROXY = (("grpc.enable_http_proxy", 0),)
"""For channels to our own servers: proxies that the environment names are for the way out of the house."""
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 20


class ServiceDidNotStart(Exception):
    """The service ended, or was not healthy in time; the message ends with the end of its log."""


class ServiceProcess(Child):
    """One service and its log file; `start` and `stop` may be repeated.

    Args:
        name: what people call it.
        is_healthy: asks the service whether it can serve; see `grpc_is_serving` and `http_answers`.
        environment: the service's whole environment.
        log_path: where its output is appended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        is_healthy: Callable[[], bool],
        environment: Mapping[str, str],
        log_path: Path,
        directory: Path | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.log_path = log_path
        self._command = list(command)
        self._is_healthy = is_healthy
        self._environment = dict(environment)
        self._directory = directory

    def launch(self) -> None:
        """Start it and return at once; nothing happens if it runs already."""
        if self.pid is not None:
            return
        make_private_folder(self.log_path.parent)
        with append_private(self.log_path) as log:
            self._process = child_process.start_tethered(
                self._command, output=log, environment=self._environment, directory=self._directory
            )

    def start(self, timeout_seconds: float = 30) -> None:
        """Start it and wait until it is healthy. Raises: ServiceDidNotStart."""
        self.launch()
        self.wait_until_healthy(timeout_seconds)

    def wait_until_healthy(self, timeout_seconds: float = 30) -> None:
        """Raises: ServiceDidNotStart if it ends first or is not healthy in time."""
        deadline = time.monotonic() + timeout_seconds
        while self.pid is not None and time.monotonic() < deadline:
            if self._is_healthy():
                return
            time.sleep(_POLL_SECONDS)
        status = self.exit_status
        what = f"was not healthy within {timeout_seconds:g} s" if status is None else f"ended with status {status}"
        raise ServiceDidNotStart(f"{self.name} {what}. The end of {self.log_path}:\n{self.log_tail()}")

    def stop(self, timeout_seconds: float = 30) -> int | None:
        """Ask it to end, kill it after `timeout_seconds`; return its exit status, None if it never ran."""
        return None if self._process is None else child_process.stop(self._process, timeout_seconds)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines of its log, indented."""
        if not self.log_path.exists():
            return "  | (no log)"
        return "\n".join(f"  | {line}" for line in self.log_path.read_text(errors="replace").splitlines()[-lines:])


def grpc_is_serving(target: str) -> bool:
    """Whether the gRPC server at `host:port` says SERVING."""
    with grpc.insecure_channel(target, NO_PROXY) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def http_answers(url: str) -> bool:
    """Whether a GET of `url` is answered with a 2xx status."""
    try:
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with directly.open(url, timeout=PROBE_TIMEOUT_SECONDS) as answer:
            return 200 <= int(answer.status) < 300
    except (OSError, urllib.error.URLError):
        return False
