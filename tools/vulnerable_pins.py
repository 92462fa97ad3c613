"""Whether a pinned package has a known vulnerability.

    python tools/vulnerable_pins.py requirements/*.txt package-lock.json

Asks the Open Source Vulnerabilities database with one request. What it can't be asked about is said and is no failure:
who works offline must be able to work.

Exit status: 0 nothing is known, or nobody could be asked; 1 a pin is vulnerable; 2 it was used wrongly.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

SOURCE = "https://api.osv.dev/v1/querybatch"
"""Unless VULNERABILITIES_URL names another one that answers alike; empty: nobody is asked."""
SECONDS_MAX = 10
ANSWER_BYTES_MAX = 16 * 1024 * 1024
ACCEPTED = Path(__file__).resolve().parents[1] / "requirements" / "accepted-vulnerabilities.txt"
"""An id and the reason on each line: what is known, and does not concern us."""
PYTHON, NODE = "PyPI", "npm"
_NODE_FOLDER = "node_modules/"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


class Pin(NamedTuple):
    """A package of one version.

    Attributes:
        ecosystem: where it is from, as the database calls it: PyPI or npm.
    """

    ecosystem: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}{'==' if self.ecosystem == PYTHON else '@'}{self.version}"


class Unreachable(Exception):
    """Nobody could be asked; the message says why."""


def pins_of(texts: Iterable[str]) -> list[Pin]:
    """The packages pinned in requirement files, each once."""
    return sorted({Pin(PYTHON, name.lower(), version) for text in texts for name, version in _PIN.findall(text)})


def pins_of_lock(text: str) -> list[Pin]:
    """The packages pinned in a package-lock.json, each once. Raises: ValueError, if it is none."""
    packages = json.loads(text).get("packages")
    if not isinstance(packages, dict):
        raise ValueError("it has no packages")  # noqa: TRY004 - of the file's content
    # What stands in no such folder is the project itself; a link is to what has an entry of its own.
    found = {
        Pin(NODE, one.get("name") or path.rpartition(_NODE_FOLDER)[2], one["version"])
        for path, one in packages.items()
        if _NODE_FOLDER in path and not one.get("link")
    }
    return sorted(found)


def read(path: Path) -> list[Pin]:
    """The packages that a file pins. Raises: ValueError, OSError."""
    try:
        return pins_of_lock(path.read_text()) if path.suffix == ".json" else pins_of([path.read_text()])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} can't be read: {error!r}") from error


def accepted_ids(text: str) -> set[str]:
    """The ids that are accepted. Raises: ValueError, if one has no reason."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if unexplained := [line[0] for line in lines if len(line) < 2]:
        raise ValueError(f"{ACCEPTED.name}: say why {', '.join(unexplained)} does not concern us")
    return {line[0] for line in lines}


def known(pins: list[Pin], url: str) -> Mapping[Pin, list[str]]:
    """The ids of the vulnerabilities of each pin that has some. Raises: Unreachable."""
    queries = [{"package": {"name": pin.name, "ecosystem": pin.ecosystem}, "version": pin.version} for pin in pins]
    body = json.dumps({"queries": queries}).encode()
    try:
        if not url.startswith(("https://", "http://127.0.0.1:")):
            raise Unreachable(f"{url!r} is no https address")
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - looked at above
        with urllib.request.urlopen(request, timeout=SECONDS_MAX) as answer:  # noqa: S310
            results = json.loads(answer.read(ANSWER_BYTES_MAX))["results"]
        found = [[one["id"] for one in result.get("vulns") or []] for result in results]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(f"{url}: {error!r}") from error
    if len(found) != len(pins):
        raise Unreachable(f"{url}: {len(found)} answers to {len(pins)} questions")
    return {pin: ids for pin, ids in zip(pins, found, strict=True) if ids}


def main(arguments: list[str]) -> int:
    """See the module."""
    try:
        files = {name: read(Path(name)) for name in arguments}
    except (ValueError, OSError) as error:
        files = {str(error): []}
    if not files or not all(files.values()):
        empty = [name for name, found in files.items() if not found]
        print("usage: vulnerable_pins.py FILE... (with lines like name==1.0, or package-lock.json)", *empty,
              sep="\nno pins: ", file=sys.stderr)  # fmt: skip
        return 2
    pins = sorted({pin for found in files.values() for pin in found})
    url = os.environ.get("VULNERABILITIES_URL", SOURCE)
    accepted = accepted_ids(ACCEPTED.read_text())
    try:
        if not url:
            raise Unreachable("VULNERABILITIES_URL is empty")
        vulnerable = known(pins, url)
    except Unreachable as reason:
        print(f"Known vulnerabilities of {len(pins)} pins: not looked up, nobody could be asked ({reason}).")
        return 0
    found = {pin: sorted(set(ids) - accepted) for pin, ids in vulnerable.items()}
    for pin, ids in found.items():
        if ids:
            how = "make lock" if pin.ecosystem == PYTHON else "package.json"
            print(f"{pin} is vulnerable: {', '.join(ids)}. Take a newer one ({how}), or write the id "
                  f"and why it does not concern us into requirements/{ACCEPTED.name}.")  # fmt: skip
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
