"""SECURITY.md names a test for each threat; they must be there, and be of the kind that it says."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.kits.processes import ROOT

_TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`(?: \((\w+)\))?")
ON_THE_MACHINE = ("tests/integration/development/", "tests/e2e/test_development_run.py", "tests/faults/")
SOCKET = frozenset(
    {
        "Processes",
        "TestServer",
        "aiohttp",
        "exchange",
        "grpc",
        "guarded",
        "server",
        "serving",
        "shop",
        "socket",
        "start",
        "ticking",
    }
)
"""What a test uses, by itself or through what it calls, that speaks with a running server."""
MACHINE = frozenset({"LocalServer", "Run", "connection", "database_server"})
"""Likewise, to look at what a server leaves behind, or at the database server itself."""


def rows() -> list[str]:
    text = (ROOT / "SECURITY.md").read_text()
    return [line for line in text[text.index("| threat |") :].splitlines()[2:] if line.startswith("|")]


def named() -> Iterator[tuple[str, str, str]]:
    """The path and the name of each test, and what kind it is said to be."""
    for row in rows():
        path = ""
        for found in _TEST.finditer(row):
            path = found[1] or path
            yield path, found[2], found[3] or "socket"


@cache
def definitions(path: str) -> dict[str, ast.AST]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, kinds)}


def uses(path: str, name: str) -> set[str]:
    """All names that a test uses, its fixtures and helpers in the same module, and what those use."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            inside = ast.walk(definitions(path)[one]) if one in definitions(path) else ()
            waiting += [
                node.id if isinstance(node, ast.Name) else node.arg
                for node in inside
                if isinstance(node, ast.Name | ast.arg)
            ]
    return found


def kind_of(path: str, name: str) -> str:
    used = uses(path, name)
    if path.startswith(ON_THE_MACHINE) or "dump" in used:
        return "machine" if used & MACHINE else "nothing"
    if path.startswith("tests/unit/"):
        return "socket" if used & {"TestServer", "serving"} else "code"
    return "socket" if used & SOCKET else "nothing"


def test_each_threat_has_a_test() -> None:
    assert len(rows()) > 20
    assert [row for row in rows() if not _TEST.search(row)] == []


@pytest.mark.parametrize(("path", "name", "kind"), list(named()))
def test_the_tests_that_it_names_exist_and_are_what_it_says(path: str, name: str, kind: str) -> None:
    assert name in definitions(path)
    assert kind_of(path, name) == kind
