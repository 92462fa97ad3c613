"""The distributions, built and installed into virtual environments of their own, far from the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kits.processes import ROOT, clean_environment

UV = ROOT / ".venv" / "bin" / "uv"
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Wheels:
    """What `make dist` builds."""

    stockwarden: Path
    client: Path
    sources: tuple[Path, ...]


def build(folder: Path) -> Wheels:
    """Build them, as `make dist` does."""
    _run(["bash", str(ROOT / "tools" / "dist"), str(folder)], ROOT)
    [services] = folder.glob("stockwarden-*.whl")
    [client] = folder.glob("stockwarden_client-*.whl")
    return Wheels(services, client, tuple(folder.glob("*.tar.gz")))


class Environment:
    """An empty virtual environment.

    Attributes:
        is_borrowing: the libraries could not be had from anywhere; it uses those of the tests, and has no others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_borrowing = False
        _run([str(UV), "venv", "--quiet", "--python", sys.executable, str(folder / "env")], folder.parent)
        self.python = folder / "env" / "bin" / "python"
        self.site_packages = Path(self.output("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def install(self, wheels: Sequence[Path], *others: str, options: Sequence[str] = ()) -> None:
        """Install wheels and what they need: downloaded, else of a cache, else what the tests themselves have."""
        install = [str(UV), "pip", "install", "--quiet", "--python", str(self.python), *map(str, wheels)]
        whole = [*install, *others, *options, "--only-binary", ":all:"]
        for command in (whole, [*whole, "--offline"]):
            if _tried(command, self.folder).returncode == 0:
                return
        _run([*install, "--no-deps", "--offline"], self.folder)
        (self.site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.is_borrowing = True

    def command(self, name: str) -> str:
        """A command that was installed."""
        return str(self.folder / "env" / "bin" / name)

    def output(self, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
        """What this Python says with these arguments. Raises: AssertionError, if it fails."""
        return self.run(str(self.python), *arguments, settings=settings)

    def run(self, *command: str, settings: Mapping[str, str] | None = None) -> str:
        """What a command says that is run here. Raises: AssertionError, if it fails."""
        return _run(command, self.folder, environment(settings or {}))


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Without our own settings and those of the Python that runs the tests: nothing leads back to the checkout."""
    inherited = clean_environment(settings)
    return {name: value for name, value in inherited.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def pins(folder: Path, *excepted: str) -> Path:
    """The versions that the services are tested with, as constraints."""
    found = re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements" / "runtime.txt").read_text(), re.MULTILINE)
    place = folder / "pins.txt"
    place.write_text("".join(f"{name}=={version}\n" for name, version in found if name not in excepted))
    return place


def _run(command: Sequence[str], directory: Path, settings: Mapping[str, str] | None = None) -> str:
    done = _tried(command, directory, settings)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _tried(
    command: Sequence[str], directory: Path, settings: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=directory,
        env=dict(settings if settings is not None else environment({"PATH": os.environ["PATH"]})),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
