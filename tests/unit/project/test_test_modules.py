"""Test modules are not libraries: what several share stands in modules of its own, beside them."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]


def test_no_test_module_imports_another() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            found += [
                f"{path.relative_to(TESTS)}: {name}"
                for name in names
                if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
            ]
    assert found == []
