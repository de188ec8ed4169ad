"""Shapes of models whose weights are random, and the engine that is loaded with one of them: one at a time."""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from gpu.setting import Setting
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.models.presets import PRESETS

TINY = {
    "model_type": "llama",
    "vocab_size": 8_192,  # holds the tokenizer of the embedded model
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": PRESETS["llama-3.2-1b"],
    "llama-3.1-8b": PRESETS["llama-3.1-8b"],
    "llama-3.1-8b MHA": PRESETS["llama-3.1-8b"] | {"num_key_value_heads": 32},
}


def shape_of(name: str, setting: Setting) -> dict[str, Any]:
    return TINY if setting.is_tiny else SHAPES[name]


class Engines:
    """The engine that was asked for last, with its configuration."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._wanted: tuple[str, dict[str, Any]] | None = None
        self._loaded: LoadedEngine | None = None

    def get(self, shape: str, **options: Any) -> LoadedEngine:
        """Loads it unless it is the one that is there; the one before lets go of the device's memory first."""
        if self._loaded is None or self._wanted != (shape, options):
            self.close()
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "config.json"
                config.write_text(json.dumps(shape_of(shape, self._setting)))
                wanted = {**self._setting.engine_options, "config": str(config), **options}
                self._loaded = load_engine(EngineConfig.from_options(wanted))
            self._wanted = (shape, options)
        return self._loaded

    def close(self) -> None:
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
