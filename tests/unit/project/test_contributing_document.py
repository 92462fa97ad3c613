"""CONTRIBUTING.md says where things go: the places must be there."""

import re

from tests.kits.processes import ROOT

_PATH = re.compile(r"`([\w./-]+/[\w./-]*|[A-Z]+\.md)`")
KINDS = ("order status", "stock movement", "refusal", "HTTP route", "background role", "event", "setting")


def rows() -> dict[str, str]:
    """The lines of the table, by what is new."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    lines = text[text.index("| new |") :].splitlines()[2:]
    return {line.split("|")[1].strip(): line for line in lines}


def test_there_is_a_row_for_each_thing_that_often_comes() -> None:
    assert set(KINDS) <= rows().keys()


def test_all_places_exist() -> None:
    for kind, row in rows().items():
        paths = _PATH.findall(row)
        assert len(paths) >= 2, kind
        assert [path for path in paths if not (ROOT / path).exists()] == []
