"""The look-up of known vulnerabilities: what it asks, and that it fails only where it was told of one."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from development.free_ports import free_port
from tests.kits.processes import ROOT
from tools.vulnerable_pins import accepted_ids, pins_of, pins_of_lock

PINS = "good==1.0 \\\n    --hash=sha256:00\nBad_one[extra]==2.1.0 ; python_version < '4' \\\n    --hash=sha256:11\n"
VULNERABLE = {("PyPI", "bad_one", "2.1.0"): ["GHSA-xxxx", "PYSEC-1"], ("npm", "@scope/Bad", "3.0.0"): ["GHSA-yyyy"]}
LOCK = {
    "packages": {
        "": {"name": "ours", "version": "1.0.0"},
        "node_modules/@scope/Bad": {"version": "3.0.0"},
        "node_modules/good/node_modules/bad_one": {"version": "2.1.0"},
        "node_modules/renamed": {"name": "good", "version": "1.0.0"},
        "node_modules/ours": {"link": True, "resolved": "."},
    }
}


class _Source(BaseHTTPRequestHandler):
    answer = b""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        results = []
        for query in queries:
            package = query["package"]
            ids = VULNERABLE.get((package["ecosystem"], package["name"], query["version"]), [])
            results.append({"vulns": [{"id": one} for one in ids]} if ids else {})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer or json.dumps({"results": results}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def source(answer: bytes = b"") -> Iterator[str]:
    kind = type("_Answering", (_Source,), {"answer": answer})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/querybatch"
        server.shutdown()


def check(pins: str, folder: Path, url: str, lock: str = "") -> tuple[int, str]:
    (folder / "pins.txt").write_text(pins)
    (folder / "package-lock.json").write_text(lock)
    command = [sys.executable, "tools/vulnerable_pins.py", str(folder / "pins.txt")]
    command += [str(folder / "package-lock.json")] if lock else []
    ended = subprocess.run(
        command, cwd=ROOT, env={"VULNERABILITIES_URL": url}, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_it_reads_pins_with_hashes_extras_and_markers() -> None:
    assert pins_of([PINS, PINS]) == [("PyPI", "bad_one", "2.1.0"), ("PyPI", "good", "1.0")]
    ours = pins_of((ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "dev.txt"))
    assert len(ours) > 50
    assert "aiohttp" in {pin.name for pin in ours}


def test_it_reads_what_npm_has_pinned() -> None:
    assert pins_of_lock(json.dumps(LOCK)) == [
        ("npm", "@scope/Bad", "3.0.0"),
        ("npm", "bad_one", "2.1.0"),
        ("npm", "good", "1.0.0"),
    ]
    assert "@bufbuild/buf" in {pin.name for pin in pins_of_lock((ROOT / "package-lock.json").read_text())}


def test_what_npm_has_pinned_is_asked_about_as_npms(tmp_path: Path) -> None:
    with source() as url:
        status, said = check("good==1.0\n", tmp_path, url, json.dumps(LOCK))
    assert status == 1
    assert "@scope/Bad@3.0.0 is vulnerable: GHSA-yyyy. Take a newer one (package.json)" in said
    assert "bad_one" not in said  # npm's package of that name is another one


@pytest.mark.parametrize("lock", ["{", "{}", "[]", '{"packages": []}', '{"packages": {"node_modules/a": {}}}'])
def test_a_lock_that_is_none_is_no_success(tmp_path: Path, lock: str) -> None:
    assert check("good==1.0\n", tmp_path, "", lock)[0] == 2


def test_make_check_asks_about_all_that_is_pinned() -> None:
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "tools/vulnerable_pins.py" in line]
    pins = {f"requirements/{path.name}" for path in (ROOT / "requirements").glob("*.txt")}
    asked = line.split("vulnerable_pins.py")[1].split()
    assert set(asked) == pins - {"requirements/accepted-vulnerabilities.txt"} | {"package-lock.json"}


def test_a_vulnerable_pin_fails_and_is_named(tmp_path: Path) -> None:
    with source() as url:
        status, said = check(PINS, tmp_path, url)
        assert status == 1
        assert "bad_one==2.1.0 is vulnerable: GHSA-xxxx, PYSEC-1" in said
        assert "good" not in said
        assert check("good==1.0\n", tmp_path, url) == (0, "")


@pytest.mark.parametrize("answer", [b"{}", b"<html>", b'{"results": []}', b'{"results": [1, 2]}', b"[]"])
def test_a_source_that_does_not_answer_as_it_should_is_no_failure(tmp_path: Path, answer: bytes) -> None:
    with source(answer) as url:
        status, said = check(PINS, tmp_path, url)
    assert status == 0
    assert "not looked up" in said


def test_without_a_source_it_says_so(tmp_path: Path) -> None:
    for url in ("", f"http://127.0.0.1:{free_port()}/", "ftp://127.0.0.1/"):
        status, said = check(PINS, tmp_path, url)
        assert status == 0
        assert "2 pins: not looked up, nobody could be asked" in said


def test_it_needs_pins(tmp_path: Path) -> None:
    assert check("nothing\n", tmp_path, "")[0] == 2


def test_what_is_accepted_has_a_reason() -> None:
    assert accepted_ids("# none\nGHSA-1 only on Windows\n\n") == {"GHSA-1"}
    with pytest.raises(ValueError, match="say why GHSA-2"):
        accepted_ids("GHSA-2\n")
