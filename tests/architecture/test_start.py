"""What a start pays for: `import vivace` nothing, a CPU answer neither torch nor rich."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"numpy", "tokenizers", "torch", "jinja2", "rich", "typer", "huggingface_hub", "transformers", "pydantic"}


def _modules_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter that ran `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )
    return set(done.stderr.splitlines()[-1].split())


def test_import_vivace_imports_nothing_heavy() -> None:
    assert _modules_after("import vivace; vivace.__version__") & HEAVY == set()


def test_config_values_need_no_arrays() -> None:
    code = "from vivace import EngineConfig, SamplingParams; EngineConfig(); SamplingParams()"
    assert _modules_after(code) & HEAVY == set()


def test_help_imports_no_engine() -> None:
    code = "from vivace.cli.app import app; app(['generate', '--help'], standalone_mode=False)"
    assert _modules_after(code) & {"numpy", "tokenizers", "torch"} == set()


def test_an_answer_on_the_cpu_imports_neither_torch_nor_rich(shared: Path) -> None:
    model = shared / "weights" / "stories260K"
    code = f"""
import sys
from vivace.cli import main
sys.argv = ["vivace", "generate", {str(model)!r}, "--prompt", "Once upon a time", "--max-tokens", "3"]
try:
    main()
except SystemExit as left:
    assert left.code == 0, left.code
"""
    assert _modules_after(code) & {"torch", "transformers", "safetensors", "gguf", "huggingface_hub", "rich"} == set()


def test_public_names() -> None:
    import vivace

    assert set(vivace.__all__) <= set(dir(vivace))
    assert all(getattr(vivace, name) is not None for name in vivace.__all__)
    with pytest.raises(AttributeError, match="LMM"):
        vivace.LMM  # noqa: B018
