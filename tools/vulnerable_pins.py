"""Whether a pinned package has a known vulnerability: `python tools/vulnerable_pins.py requirements/*.txt`.

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

SOURCE = "https://api.osv.dev/v1/querybatch"
"""Unless VULNERABILITIES_URL names another one that answers alike; empty: nobody is asked."""
SECONDS_MAX = 10
ANSWER_BYTES_MAX = 16 * 1024 * 1024
ACCEPTED = Path(__file__).resolve().parents[1] / "requirements" / "accepted-vulnerabilities.txt"
"""An id and the reason on each line: what is known, and does not concern us."""
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)

Pin = tuple[str, str]


class Unreachable(Exception):
    """Nobody could be asked; the message says why."""


def pins_of(texts: Iterable[str]) -> list[Pin]:
    """The names and versions pinned in requirement files, each once."""
    return sorted({(name.lower(), version) for text in texts for name, version in _PIN.findall(text)})


def accepted_ids(text: str) -> set[str]:
    """The ids that are accepted. Raises: ValueError, if one has no reason."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if unexplained := [line[0] for line in lines if len(line) < 2]:
        raise ValueError(f"{ACCEPTED.name}: say why {', '.join(unexplained)} does not concern us")
    return {line[0] for line in lines}


def known(pins: list[Pin], url: str) -> Mapping[Pin, list[str]]:
    """The ids of the vulnerabilities of each pin that has some. Raises: Unreachable."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
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
    pins = pins_of(Path(name).read_text() for name in arguments)
    if not pins:
        print("usage: vulnerable_pins.py FILE... (with lines like name==1.0)", file=sys.stderr)
        return 2
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
    for (name, version), ids in found.items():
        if ids:
            print(f"{name}=={version} is vulnerable: {', '.join(ids)}. Take a newer one (make lock), or write the id "
                  f"and why it does not concern us into requirements/{ACCEPTED.name}.")  # fmt: skip
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
