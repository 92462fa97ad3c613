"""The code that is measured: this checkout, or another revision of it in a temporary folder."""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import service_settings
from benchmarks.generator import BenchmarkFailed
from benchmarks.service_settings import ServiceSettings

PROJECT = Path(__file__).resolve().parents[1]
REQUIREMENTS = "requirements/runtime.txt"
GIT_TIMEOUT_SECONDS = 60
HELPER_TIMEOUT_SECONDS = 120
"""For what a tree does to its own database before it is measured."""

SETTINGS_BEFORE_THEY_WERE_TOLD = ServiceSettings(
    warehouse={}, orders={"ORDERS_PROFILE": "development", "ORDERS_REQUESTS_PER_SECOND_MAX": "100000"}
)
"""For revisions that have no `benchmarks.service_settings` yet."""
_STOCK = "import os; from benchmarks.database import make_stocked; make_stocked(os.environ['BENCHMARK_DATABASE_URL'])"


class Tree(msgspec.Struct, frozen=True):
    """One revision's files, and how its services are started."""

    name: str
    """What a report calls it: a commit, and whether it has changes."""
    directory: Path
    settings: ServiceSettings
    remarks: tuple[str, ...] = ()
    """What a reader of the figures must know about it."""

    def make_stocked(self, url: str) -> None:
        """Let the tree make its warehouse's database, with all products of the workloads. Raises: BenchmarkFailed."""
        self._python(["-c", _STOCK], {"BENCHMARK_DATABASE_URL": url})

    def migrate_orders(self, settings: Mapping[str, str]) -> None:
        """Let the tree make its order gateway's database. Raises: BenchmarkFailed."""
        self._python(["-m", "order_gateway", "migrate"], settings)

    def _python(self, arguments: list[str], settings: Mapping[str, str]) -> None:
        done = run_python(self.directory, arguments, settings)
        if done.returncode:
            words = (done.stdout + done.stderr)[-2000:]
            raise BenchmarkFailed(f"{self.name} can't prepare its database (python {arguments[0]}):\n{words}")


def this_tree() -> Tree:
    """The checkout that the benchmark itself runs from, with whatever was changed in it."""
    return Tree(_name_of_checkout(), PROJECT, service_settings.here())


@contextmanager
def checked_out(revision: str) -> Iterator[Tree]:
    """The files of `revision` (whatever git understands) in a folder that is removed afterwards.

    Raises:
        BenchmarkFailed: there is no such revision, or no git.
    """
    commit = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    # An archive rather than a worktree: nothing stays in the repository when the benchmark is killed.
    archive = _git("archive", "--format=tar", commit)
    with tempfile.TemporaryDirectory(prefix="warehouse-bench-before-") as place:
        folder = Path(place)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        short = _git("rev-parse", "--short", commit).decode().strip()
        name = short if commit.startswith(revision) else f"{revision} ({short})"
        yield Tree(name, folder, _settings_of(folder), differing_requirements(PROJECT, folder))


def differing_requirements(now: Path, before: Path) -> tuple[str, ...]:
    """A remark if the two trees pin other packages: both are measured with those of the first."""
    pins = [folder / REQUIREMENTS for folder in (now, before)]
    if all(path.exists() for path in pins) and pins[0].read_bytes() == pins[1].read_bytes():
        return ()
    with_what = f"both ran with the packages of {sys.prefix}: the ratios are those of the project's own code."
    return (f"{REQUIREMENTS} differs between the two; {with_what}",)


def run_python(
    directory: Path, arguments: list[str], settings: Mapping[str, str], timeout_seconds: float = HELPER_TIMEOUT_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run this Python in a tree, so that what it imports is the tree's."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def _settings_of(folder: Path) -> ServiceSettings:
    if not (folder / "benchmarks" / "service_settings.py").exists():
        return SETTINGS_BEFORE_THEY_WERE_TOLD
    done = run_python(folder, ["-m", "benchmarks.service_settings"], {})
    try:
        return msgspec.json.decode(done.stdout, type=ServiceSettings)
    except msgspec.DecodeError as error:
        words = f"It does not tell how its services are started: {done.stderr[-1000:]}"
        raise BenchmarkFailed(words) from error


def _name_of_checkout() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD").decode().strip()
        changed = _git("status", "--porcelain", "--untracked-files=no").strip()
    except BenchmarkFailed:
        return "this checkout"
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments],
            capture_output=True,
            timeout=GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise BenchmarkFailed(f"To compare revisions git is needed: {error}") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip() or "there is no such revision"
        raise BenchmarkFailed(f"git {' '.join(arguments)}: {words}")
    return done.stdout
