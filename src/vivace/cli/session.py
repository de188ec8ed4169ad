"""How commands get an engine: the one place of the command line that imports it, and only when it is called."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from vivace.cli.screen import counter
from vivace.core.config import EngineConfig

if TYPE_CHECKING:
    from vivace.engine.llm import LLM

SILENT_LOAD_S = 0.5  # a model that loads faster shows no progress


def open_llm(config: EngineConfig) -> LLM:
    """Load a model. The import costs 0.3 s (NumPy, tokenizers), which `--help` and a wrong flag do not pay."""
    from vivace.engine.llm import LLM

    options = {field.name: getattr(config, field.name) for field in fields(config)}
    return LLM(load_progress=counter("loaded", after_s=SILENT_LOAD_S), **options)
