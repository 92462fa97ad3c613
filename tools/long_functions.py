"""Names functions that are too long to be read in one go: `python tools/long_functions.py FOLDER...`.

Counted are the lines from `def` to the end, without the docstring and the lines of the signature: a command's options,
which are its documentation, don't make it hard to follow.

Exit status: 0 there are none; 1 there are some; 2 it was used wrongly.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LINES_MAX = 70


def long_functions(source: str, lines_max: int = LINES_MAX) -> Iterator[tuple[str, int, int]]:
    """Name, first line and number of lines of each function in a module that has more than `lines_max`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or node.lineno) - body[0].lineno + 1 if body else 0
            if lines > lines_max:
                yield node.name, node.lineno, lines


def main(folders: list[str]) -> int:
    """The command."""
    if not folders or not all(Path(folder).is_dir() for folder in folders):
        print("usage: python tools/long_functions.py FOLDER...", file=sys.stderr)
        return 2
    found = [
        f"{path}:{line}: {name} has {lines} lines, more than {LINES_MAX}: cut it into parts that have a name"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for name, line, lines in long_functions(path.read_text())
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
