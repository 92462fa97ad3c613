"""The services as real processes, for tests."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from development.free_ports import free_port
from development.service_process import ServiceProcess, grpc_is_serving, http_answers
from tests.kits.secrets_used import found_in, note_settings

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT_API_KEY = "order-service-api-key"
_OURS = ("WAREHOUSE_", "ORDERS_", "DATABASE_URL")


def json_lines(path: Path) -> list[dict[str, Any]]:
    """What a process wrote that logs a JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without our own settings, and with `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **settings}


class Processes:
    """Starts services and remembers them, so that all are stopped and their logs can be shown."""

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self.started: list[ServiceProcess] = []

    def warehouse(
        self, database_url: str, *, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> tuple[ServiceProcess, str]:
        """`python -m warehouse serve`, healthy, and its gRPC target.

        Args:
            port: give the port of an earlier one to start it again.
            settings: further environment variables.
        """
        target = f"127.0.0.1:{port or free_port()}"
        environment = {"WAREHOUSE_DATABASE_URL": database_url, "WAREHOUSE_LISTEN": target, **(settings or {})}
        process = self._start("warehouse", environment, lambda: grpc_is_serving(target))
        return process, target

    def order_gateway(
        self,
        database_url: str,
        warehouse_target: str,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> tuple[ServiceProcess, str]:
        """`python -m order_gateway serve` in the development profile, healthy, and its base URL."""
        listen = f"127.0.0.1:{port or free_port()}"
        environment = {
            "ORDERS_DATABASE_URL": database_url,
            "ORDERS_LISTEN": listen,
            "ORDERS_WAREHOUSE_TARGET": warehouse_target,
            "ORDERS_PROFILE": "development",
            **(settings or {}),
        }
        base_url = f"http://{listen}/api/v1"
        process = self._start("order_gateway", environment, lambda: http_answers(f"{base_url}/health"))
        return process, base_url

    def launch(self, module: str, settings: Mapping[str, str]) -> ServiceProcess:
        """`python -m module serve` with these settings only, without waiting for it."""
        process = self._process(module, settings, lambda: True)
        process.launch()
        return process

    def stop_all(self) -> None:
        """Stop everything that runs, last started first; none of them has written a secret into its log."""
        for process in reversed(self.started):
            process.stop()
        assert found_in(process.log_path for process in self.started) == []

    def logs(self) -> dict[str, str]:
        """The end of each process's log, by name."""
        return {process.log_path.stem: process.log_tail(60) for process in self.started}

    def _start(self, module: str, settings: Mapping[str, str], is_healthy: Callable[[], bool]) -> ServiceProcess:
        process = self._process(module, settings, is_healthy)
        process.start()
        return process

    def _process(self, module: str, settings: Mapping[str, str], is_healthy: Callable[[], bool]) -> ServiceProcess:
        note_settings(settings)
        process = ServiceProcess(
            module,
            [sys.executable, "-m", module, "serve"],
            is_healthy=is_healthy,
            environment=clean_environment(settings),
            log_path=self.log_folder / f"{module}-{len(self.started)}.log",
            directory=ROOT,
        )
        self.started.append(process)
        return process
