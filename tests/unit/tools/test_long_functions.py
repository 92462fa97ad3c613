"""Functions that are too long to be read in one go are named."""

from pathlib import Path

import pytest

from tools.long_functions import long_functions, main

SHORT = 'def short(\n    a,\n    b,\n):\n    """Two\n\n    lines.\n    """\n    return a\n'
LONG = "class A:\n    async def long(self):\n" + "        await x\n" * 5


def test_what_is_counted_is_the_body() -> None:
    assert list(long_functions(SHORT, 1)) == []
    assert list(long_functions(SHORT, 0)) == [("short", 1, 1)]
    assert list(long_functions(LONG, 4)) == [("long", 2, 5)]


def test_a_long_one_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "module.py").write_text("def f():\n" + "    x = 1\n" * 71)
    assert main([str(tmp_path)]) == 1
    assert "module.py:1: f has 71 lines" in capsys.readouterr().out
    (tmp_path / "module.py").write_text(LONG)
    assert main([str(tmp_path)]) == 0
    assert main([]) == 2
