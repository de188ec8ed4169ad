"""The repository's sources, parsed: what the architecture tests look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vivace"


@dataclass(frozen=True)
class Import:
    """`module` is imported in `file` (relative to the package); `in_function`: not at the top of the file."""

    file: str
    module: str
    in_function: bool


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports() -> Iterator[Import]:
    """Every import statement of the package, those under TYPE_CHECKING included."""
    for path in package_files():
        file = path.relative_to(PACKAGE).as_posix()
        tree = parsed(path)
        inside = {id(node) for function in functions(tree) for node in ast.walk(function)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            yield from (Import(file, module, id(node) in inside) for module in modules)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
