"""Vivace makes a language model fast on the machine you have, and proves it.

`from vivace import LLM, SamplingParams` is the offline interface; names are imported on first use, so that
`import vivace` costs a millisecond and a command that needs no engine does not pay for one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivace.core.config import EngineConfig
    from vivace.core.sampling import SamplingParams
    from vivace.core.structured_outputs import StructuredOutputs
    from vivace.engine.async_engine import AsyncEngine
    from vivace.engine.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncEngine", "EngineConfig", "SamplingParams", "StructuredOutputs", "__version__"]

_HOMES = {
    "LLM": "vivace.engine.llm",
    "AsyncEngine": "vivace.engine.async_engine",
    "EngineConfig": "vivace.core.config",
    "SamplingParams": "vivace.core.sampling",
    "StructuredOutputs": "vivace.core.structured_outputs",
}


def __getattr__(name: str) -> Any:
    """PEP 562: import a public name's module when the name is first asked for, and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vivace' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
