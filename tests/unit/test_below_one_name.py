"""What the build makes of a module: it imports ours from below `stockwarden`, and nothing else of it changes."""

import runpy
from collections.abc import Callable

import pytest

from tests.kits.processes import ROOT

SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
below_one_name: Callable[[str], str] = SETUP["below_one_name"]
folders: Callable[[], dict[str, str]] = SETUP["folders"]


def test_imports_of_ours_are_renamed_wherever_they_stand() -> None:
    source = (
        '"""from warehouse.stock import nothing: this is text."""\n'
        "import asyncio\n"
        "from warehouse import workers\n"
        "from warehouse.stock.records import (\n    Level,\n)\n"
        "from warehouses import other\n"
        "from . import warehouse\n"
        "def late():\n    from service_kit.pem import certificates\n"
        "    if True: from order_gateway import lifecycle\n"
        'NAME = "warehouse.v1"\n'
    )
    assert below_one_name(source) == (
        '"""from warehouse.stock import nothing: this is text."""\n'
        "import asyncio\n"
        "from stockwarden.warehouse import workers\n"
        "from stockwarden.warehouse.stock.records import (\n    Level,\n)\n"
        "from warehouses import other\n"
        "from . import warehouse\n"
        "def late():\n    from stockwarden.service_kit.pem import certificates\n"
        "    if True: from stockwarden.order_gateway import lifecycle\n"
        'NAME = "warehouse.v1"\n'
    )


def test_it_may_be_done_twice() -> None:
    once = below_one_name("from warehouse.stock import deciding\n")
    assert below_one_name(once) == once


@pytest.mark.parametrize("line", ["import warehouse", "import warehouse.stock", "import os, service_kit.pem as pem"])
def test_what_binds_a_name_that_is_moved_ends_the_build(line: str) -> None:
    with pytest.raises(ValueError, match="line 2: write `from"):
        below_one_name(f"\n{line}\n")


def test_every_folder_with_modules_is_a_package_of_the_distribution() -> None:
    modules = (path for root in ("stockwarden", *SETUP["MOVED"]) for path in (ROOT / root).rglob("*.py"))
    assert {str(path.parent.relative_to(ROOT)) for path in modules} <= set(folders().values())
