"""One concept a file, a function a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, functions, package_files, parsed

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FOLDERS = ("src", "csrc", "tests", "training", "benches")
SUFFIXES = (".py", ".pyi", ".cpp", ".h")


def _source_files() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES)


def test_files_are_small() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _source_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen(path: Path) -> None:
    sizes = {node.name: _num_lines(node) for node in functions(parsed(path))}
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def _num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_names_are_nouns_of_the_domain() -> None:
    vague = {"utils", "helpers", "common", "misc"}
    named = [path.relative_to(PACKAGE).with_suffix("") for path in package_files()]
    assert not [path for path in named if vague & set(path.parts)]


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by name: of two with one name, the second is not collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
