"""What a run of the tests says about itself, and which modules it begins with."""

from pathlib import Path
from types import SimpleNamespace

from tests.kits.where_time_goes import LONG_MODULES, SHOWN_MODULES, pytest_collection_modifyitems, summary

TESTS = Path(__file__).resolve().parents[2]


def report(nodeid: str, duration: float, worker: str = "gw0") -> SimpleNamespace:
    return SimpleNamespace(nodeid=nodeid, duration=duration, worker_id=worker)


def test_modules_that_are_named_exist() -> None:
    assert [name for name in LONG_MODULES if not (TESTS / name).is_file()] == []
    assert len(set(LONG_MODULES)) == len(LONG_MODULES)


def test_long_modules_come_first_and_nothing_else_moves() -> None:
    names = ["unit/a.py", LONG_MODULES[1], LONG_MODULES[0], LONG_MODULES[0], "unit/b.py"]
    items = [SimpleNamespace(path=TESTS / name, number=number) for number, name in enumerate(names)]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.number for item in items] == [2, 3, 1, 0, 4]


def test_make_test_keeps_that_order() -> None:
    command = (TESTS.parent / "Makefile").read_text().split("\nPYTEST = ")[1].split("\n\n")[0]
    assert "--dist loadfile --no-loadscope-reorder" in command


def test_seconds_are_added_up_by_module_and_by_process() -> None:
    lines = list(summary([report("a.py::one", 1), report("a.py::two", 2, "gw1"), report("b.py::one", 4)]))
    assert lines == ["     4.0 b.py", "     3.0 a.py", "at work: gw0 5 s, gw1 2 s"]


def test_short_modules_are_added_up() -> None:
    reports = [report(f"{number:02}.py::one", 100 - number) for number in range(SHOWN_MODULES + 2)]
    assert list(summary(reports))[-1] == "   149.0 2 others"
