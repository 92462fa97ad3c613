"""SECURITY.md names a test for each threat; they must be there."""

import re

from tests.kits.processes import ROOT

_TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`")


def test_the_tests_that_it_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("| threat |") :].splitlines()[2:]
    for row in table:
        named, path = 0, ""
        for found in _TEST.finditer(row):
            path, named = found[1] or path, named + 1
            assert re.search(rf"^(async )?def {found[2]}\(", (ROOT / path).read_text(), re.MULTILINE), found[0]
        assert named, f"no test for: {row}"
    assert len(table) > 20
