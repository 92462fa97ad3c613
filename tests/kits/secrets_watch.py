"""Looks for secrets in everything that is logged during a run of the tests, by whomever.

That is what goes into the log files of processes (the database servers' as well), what commands print that a test
starts, and what is logged inside of the tests' own process. A plugin of pytest; `tests/conftest.py` takes it in.
"""

import asyncio.subprocess
import subprocess
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest

from tests.kits.secrets_used import lines_with_secrets, note_settings

_OURS = ("WAREHOUSE_", "ORDERS_", "DATABASE_URL")
_CLIENTS = ("curl", "openssl")
"""What these print was meant for them."""


class Tail:
    """What a process has written into a file, and what of it was looked at; the file may be removed meanwhile."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] = open(path, "rb")  # noqa: PTH123, SIM115 - closed when its process is gone
        self._lines = 0

    def look(self, *, is_ended: bool) -> list[str]:
        """Where secrets stand in what is new, in whole lines only until its process has ended."""
        content = self._file.read()
        if not is_ended:
            rest = len(content) - (content.rfind(b"\n") + 1)
            self._file.seek(-rest, 1)
            content = content[: len(content) - rest]
        found = [f"{self.path}:{self._lines + number}" for number in lines_with_secrets(content)]
        self._lines += content.count(b"\n")
        if is_ended:
            self._file.close()
        return found


class Watch:
    """Knows of all processes that were started.

    Attributes:
        found: where secrets stood, without the secrets themselves.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._tails: list[tuple[subprocess.Popen[Any], Tail]] = []

    def started(self, process: "subprocess.Popen[Any]", output: object, environment: Mapping[str, str] | None) -> None:
        """A process was started; its secrets are known, and what it logs will be looked at."""
        note_settings({name: value for name, value in (environment or {}).items() if name.startswith(_OURS)})
        path = getattr(output, "name", None)
        if isinstance(path, int):  # a file that was opened by its descriptor has no other name
            path = _path_of(path)
        if isinstance(path, str):
            with suppress(OSError):
                self._tails.append((process, Tail(path)))

    def printed(self, command: object, outputs: Iterable[object]) -> None:
        """A command that a test has started has printed something."""
        words = (
            command if isinstance(command, str) else " ".join(map(str, command if isinstance(command, list) else ()))
        )
        if not any(client in words for client in _CLIENTS):
            for output in outputs:
                self.was_logged(f"the output of {words[:200]}", output)

    def was_logged(self, where: str, text: object) -> None:
        """Something has gone into a log that is no file."""
        content = text.encode() if isinstance(text, str) else text
        if isinstance(content, bytes):
            self.found += [f"{where}, line {number}" for number in lines_with_secrets(content)]

    def look(self, *, is_end: bool = False) -> None:
        """Look at what the processes have written since the last time."""
        going_on = []
        for process, tail in self._tails:
            # Not asked: whoever waits for the process must be the one to hear of its end.
            is_ended = is_end or process.returncode is not None
            self.found += tail.look(is_ended=is_ended)
            if not is_ended:
                going_on.append((process, tail))
        self._tails = going_on


def watch_processes(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    """Tell `watch` of each process that is started from here, and of what it prints."""
    start, hear = subprocess.Popen.__init__, subprocess.Popen.communicate
    hear_later = asyncio.subprocess.Process.communicate

    def starting(self: "subprocess.Popen[Any]", args: Any, *more: Any, **options: Any) -> None:
        start(self, args, *more, **options)
        watch.started(self, options.get("stdout"), options.get("env"))

    def hearing(self: "subprocess.Popen[Any]", *given: Any, **options: Any) -> Any:
        outputs = hear(self, *given, **options)
        watch.printed(self.args, outputs)
        return outputs

    async def hearing_later(self: asyncio.subprocess.Process, *given: Any, **options: Any) -> Any:
        outputs = await hear_later(self, *given, **options)
        watch.printed("a command", outputs)
        return outputs

    patch.setattr(subprocess.Popen, "__init__", starting)
    patch.setattr(subprocess.Popen, "communicate", hearing)
    patch.setattr(asyncio.subprocess.Process, "communicate", hearing_later)


_WATCH = pytest.StashKey[Watch]()
_FOUND = "secrets_found"
_PATCH = pytest.StashKey[pytest.MonkeyPatch]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    config.stash[_WATCH], config.stash[_PATCH] = Watch(), pytest.MonkeyPatch()
    watch_processes(config.stash[_WATCH], config.stash[_PATCH])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave `subprocess` as it was."""
    config.stash[_PATCH].undo()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Look at what was logged in this process."""
    report = yield
    for name, text in list(report.sections):
        # The sections of earlier phases come again with each later one.
        if name.startswith("Captured ") and name.endswith(f" {report.when}"):
            item.config.stash[_WATCH].was_logged(f"{item.nodeid}: {name}", text)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Look at what processes have logged."""
    yield
    item.config.stash[_WATCH].look()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a secret was found anywhere."""
    watch = session.config.stash[_WATCH]
    watch.look(is_end=True)
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist: only this reaches the process that reports
        session.config.workeroutput[_FOUND] = watch.found
    if watch.found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what one of several processes has found that share the tests (pytest-xdist)."""
    node.config.stash[_WATCH].found += getattr(node, "workeroutput", {}).get(_FOUND, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say where."""
    if found := config.stash[_WATCH].found:
        terminalreporter.section("secrets in logs", red=True)
        for where in found:
            terminalreporter.line(where)


def _path_of(descriptor: int) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    return None
