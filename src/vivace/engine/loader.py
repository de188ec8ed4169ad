"""From an `EngineConfig` to an engine that runs: files, backend, parameters, program, cache, scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import RequestError
from vivace.engine.engine import Engine
from vivace.engine.tokenizer import Tokenizer
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend, KVSpec


@dataclass(slots=True)
class LoadedEngine:
    """An engine with what was loaded for it. `choices` says what was decided and why."""

    engine: Engine
    tokenizer: Tokenizer | None
    spec: ModelSpec
    backend: Backend
    kv_spec: KVSpec
    weight_bytes: int
    choices: tuple[Choice, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt. Raises `RequestError` when the model came without a tokenizer."""
        if self.tokenizer is None:
            raise RequestError("this model has no tokenizer: pass prompts as token ids", param="prompt")
        return self.tokenizer.encode(text)


def load_engine(config: EngineConfig) -> LoadedEngine:
    """Load a model and make it ready. Raises `ConfigError`, `ModelFileError`."""
    ...
