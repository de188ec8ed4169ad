"""Rules of import that import-linter (`.importlinter`) cannot say: single owners, and no import inside functions."""

from __future__ import annotations

import pytest
from source_tree import imports

# Folders and files that may import inside functions, and why.
LAZY = {
    "cli/": "a command pays only for what it runs: --help and a wrong flag import no engine",
    "engine/llm.py": "60 ms of jinja2 that plain prompts do not pay",
    "engine/constraint_room.py": "60 ms of llguidance that free text does not pay",
    "engine/backend.py": "only the backend that was asked for is imported",
    "serve/tracing.py": "OpenTelemetry is an extra that few install",
    "backends/cuda/kernels/provider.py": "triton may be missing; half a second that torch's CPU device does not pay",
    "engine/source.py": "huggingface_hub costs 60 ms that local models do not pay",
}

# External modules with one owner.
OWNERS = {
    "typer": "cli/",
    "tokenizers": "engine/tokenizer/",
    "jinja2": "engine/",
    "huggingface_hub": "engine/source.py",
    "llguidance": "engine/structured_output.py",
    "opentelemetry": "serve/spans.py",
    "vivace.backends.cpu._native": "backends/cpu/",
    "torch": "backends/cuda/",
}

FORBIDDEN = ("transformers", "pickle", "cPickle", "dill", "joblib", "marshal", "shelve")


def test_no_import_inside_functions_but_where_a_reason_stands() -> None:
    strays = [one for one in imports() if one.in_function and not one.file.startswith(tuple(LAZY))]
    assert not strays


@pytest.mark.parametrize("place", LAZY)
def test_every_exception_is_used(place: str) -> None:
    assert any(one.in_function and one.file.startswith(place) for one in imports()), f"{place} needs no exception"


@pytest.mark.parametrize(("module", "owner"), OWNERS.items())
def test_one_owner(module: str, owner: str) -> None:
    users = {one.file for one in imports() if (one.module + ".").startswith(module + ".")}
    assert users, f"nobody imports {module}: drop the rule or the dependency"
    assert {file for file in users if not file.startswith(owner)} == set()


def test_nothing_unpickles() -> None:
    assert not [one for one in imports() if one.module.split(".")[0] in FORBIDDEN]


def test_triton_is_known_to_the_cuda_backend_alone() -> None:
    users = {one.file for one in imports() if one.module.split(".")[0] == "triton"}
    assert {file for file in users if not file.startswith("backends/cuda/")} == set()
