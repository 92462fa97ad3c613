"""`make run` as a child process, for tests."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from development.server_programs import Flavour
from tests.kits.processes import ROOT, clean_environment
from tests.kits.secrets_used import found_in, lines_with_secrets, note_settings

PATIENCE_SECONDS = 90


class Run:
    """`python -m development.runner run`, and what it prints."""

    def __init__(
        self,
        data_dir: Path,
        flavour: Flavour,
        grpc_port: int,
        http_port: int,
        gateway: str = "grpc",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.target, self.base_url = f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"
        self.data_dir = data_dir
        options = ["--grpc-port", str(grpc_port), "--http-port", str(http_port), "--flavour", flavour]
        options += ["--gateway", gateway]
        self.process = subprocess.Popen(
            development("run", data_dir, *options),
            cwd=ROOT,
            env=clean_environment(settings or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> str:
        """The next line that matches; fails when the output ends or nothing comes for long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                line = self._queue.get(timeout=1)
            except queue.Empty:
                continue
            if line is None:
                break
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line like {pattern!r} in:\n{''.join(self.lines)}")

    def children(self) -> dict[str, int]:
        """The process ids of what it started, by a word of the command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid:
                words = {"--datadir": "database", "-m warehouse": "warehouse", "-m order_gateway": "order gateway"}
                found.update({name: int(folder.name) for word, name in words.items() if word in command})
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal to the whole group, as a terminal does, and return the exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for published in self.data_dir.glob("*database-url"):
            note_settings({"DATABASE_URL": published.read_text().strip()})
        assert found_in([*self.data_dir.glob("logs/*"), self.data_dir / "database" / "error.log"]) == []
        assert lines_with_secrets("".join(self.lines).encode()) == []
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)


def development(command: str, data_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "development.runner", command, "--data-dir", str(data_dir), *options]
