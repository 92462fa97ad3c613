"""What the README says about payments is run, line by line: each of its two providers, from order to refund."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from development.free_ports import free_port
from development.server_programs import Flavour
from development.service_process import ServiceProcess, http_answers
from tests.kits.development_run import Run
from tests.kits.payment_kit import paths
from tests.kits.processes import ROOT, clean_environment
from tests.kits.readme import without_what_changes

pytestmark = [pytest.mark.e2e, pytest.mark.sql]


def section(title: str) -> str:
    text = (ROOT / "README.md").read_text().split("\n## Payments\n", 1)[1].split("\n## ", 1)[0]
    return text.split(f"\n### {title}", 1)[1].split("\n### ", 1)[0]


def examples(title: str) -> list[tuple[str, str]]:
    """The commands under a heading, each with what it prints."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", section(title), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


class Reader:
    """Somebody who types what the README says, on ports that are free."""

    def __init__(self, folder: Path, flavour: Flavour, cleanup: ExitStack) -> None:
        self._folder = folder
        self._flavour = flavour
        self._cleanup = cleanup
        self._ports = {name: free_port() for name in ("3000", "4000", "50051")}

    def type(self, command: str) -> str:
        words = shlex.split(re.sub(r"(localhost|127\.0\.0\.1):(\d+)", self._elsewhere, command))
        if words[-2:] == ["make", "run"]:
            self._run(dict(word.split("=", 1) for word in words[:-2]))
            return ""
        if "tests.kits.reference_provider" in words:
            self._provide(words[1:])
            return ""
        shell = re.sub(r"(localhost|127\.0\.0\.1):(\d+)", self._elsewhere, command)
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        return done.stdout

    def _elsewhere(self, address: re.Match[str]) -> str:
        return f"{address[1]}:{self._ports[address[2]]}"

    def _run(self, settings: dict[str, str]) -> None:
        ports = self._ports["50051"], self._ports["3000"]
        run = Run(self._folder / "data", self._flavour, *ports, settings=settings)
        self._cleanup.callback(run.end)
        run.wait_for("^ready ")

    def _provide(self, arguments: list[str]) -> None:
        given = arguments[arguments.index("--port") + 1]
        arguments[arguments.index(given)] = str(self._ports[given])
        arguments[arguments.index("--state") + 1] = str(self._folder / "provider.sqlite")
        provider = ServiceProcess(
            "provider",
            [sys.executable, *arguments],
            is_healthy=lambda: http_answers(f"http://127.0.0.1:{self._ports[given]}/health"),
            environment=clean_environment({}),
            log_path=self._folder / "provider.log",
            directory=ROOT,
        )
        self._cleanup.callback(provider.stop)
        provider.start()


@pytest.fixture
def reader(tmp_path: Path, database_flavour: Flavour) -> Iterator[Reader]:
    with ExitStack() as cleanup:
        yield Reader(tmp_path, database_flavour, cleanup)


@pytest.mark.parametrize(("title", "least"), [("You take the money", 7), ("A payment service takes it", 4)])
def test_every_line_prints_what_the_readme_says(reader: Reader, title: str, least: int) -> None:
    lines = examples(title)
    assert len(lines) >= least
    for command, expected in lines:
        printed = reader.type(command)
        assert without_what_changes(printed) == without_what_changes(expected), command


def test_the_contract_has_the_operations_that_are_named() -> None:
    named = {operation_id for operation_id, _path, _method in paths()}
    assert named == {"authorise", "capture", "void", "refund", "look_up"}
