"""Builds the distribution `stockwarden`: all folders of the services, below that one name.

In this repository they are folders beside each other, `warehouse` among them. A shop may well have a `warehouse` of its
own, so what is installed must not: `warehouse/stock` becomes `stockwarden/warehouse/stock`, and what the modules import
of each other is renamed with them while they are copied. ARCHITECTURE.md says what else was considered.
"""

import ast
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

NAME = "stockwarden"
MOVED = ("migrations", "order_gateway", "service_kit", "warehouse")


def below_one_name(source: str) -> str:
    """`source` with everything that it imports of ours imported from below NAME.

    Raises: ValueError: `import warehouse.stock` binds a name that is not there any more; write `from ... import`.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            if any(_is_ours(alias.name) for alias in node.names):
                raise ValueError(f"line {node.lineno}: write `from {node.names[0].name} import ...`")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module or ""):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"from {node.module} ", f"from {NAME}.{node.module} ", 1)
    return "".join(lines)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in MOVED


class BuildBelowOneName(build_py):
    """Copies the modules, and renames what they import."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """As of every build; the copy is changed, not what it is of."""
        place, is_copied = super().build_module(module, module_file, package)
        copy = Path(place)
        try:
            copy.write_text(below_one_name(copy.read_text(encoding="utf-8")), encoding="utf-8")
        except ValueError as error:
            raise ValueError(f"{module_file}, {error}") from error
        return place, is_copied


def folders() -> dict[str, str]:
    """Where each package of the distribution is found."""
    found = {NAME: NAME}
    for folder in MOVED:
        inner = find_namespace_packages(folder, exclude=["*__pycache__*"])
        found |= {f"{NAME}.{name}": name.replace(".", "/") for name in (folder, *(f"{folder}.{one}" for one in inner))}
    return found


if __name__ == "__main__":
    setup(
        packages=sorted(folders()),
        package_dir=folders(),
        package_data={f"{NAME}.order_gateway.payments": ["*.yaml"]},
        cmdclass={"build_py": BuildBelowOneName},
    )
