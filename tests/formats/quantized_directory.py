"""Model directories of a few quantised tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.formats.tensor import StoredTensor

MODULE = "model.layers.0.mlp.up_proj"


def write_directory(directory: Path, config: Mapping[str, Any] | None, tensors: Mapping[str, np.ndarray]) -> Path:
    """config.json with `config` as its quantization_config, and one safetensors file."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = {} if config is None else {"quantization_config": config}
    (directory / "config.json").write_text(json.dumps(whole))
    contiguous = {name: np.array(array, order="C") for name, array in tensors.items()}
    save_file(contiguous, directory / "model.safetensors")
    return directory


def write_module(
    directory: Path, config: Mapping[str, Any], parts: Mapping[str, np.ndarray], module: str = MODULE
) -> Path:
    return write_directory(directory, config, {f"{module}.{part}": array for part, array in parts.items()})


def stored_weight(directory: Path, module: str = MODULE) -> StoredTensor:
    with open_checkpoint(directory) as checkpoint:
        name = f"{module}.weight"
        tensor = checkpoint.tensor(name)
        assert checkpoint.shape(name) == tensor.shape
        return tensor


def read_weight(directory: Path, module: str = MODULE) -> np.ndarray:
    return dequantize(stored_weight(directory, module))
