"""Plants outlier features into a trained model without changing what it computes.

A few channels of each norm become many times larger, as they are in large models (Dettmers et al., 2022), and the
columns that read them as many times smaller. In floats the model is the same one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from vivace.formats.checkpoint import open_safetensors
from vivace.formats.dequantize import dequantize
from vivace.formats.safetensors_writer import write_safetensors

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def plant_outliers(source: Path, target: Path, *, num_channels: int, factor: float, seed: int) -> Path:
    """A copy of the folder `source`, float32, with `num_channels` outliers behind each norm."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target)
    with open_safetensors(source) as checkpoint:
        tensors = {name: dequantize(checkpoint.tensor(name)) for name in checkpoint.names()}
    rng = np.random.default_rng(seed)
    num_layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    for layer in range(num_layers):
        for norm, readers in READERS.items():
            weight = tensors[f"model.layers.{layer}.{norm}.weight"]
            channels = rng.choice(len(weight), num_channels, replace=False)
            weight[channels] *= np.float32(factor)
            for reader in readers:
                tensors[f"model.layers.{layer}.{reader}.weight"][:, channels] /= np.float32(factor)
    write_safetensors(target / "model.safetensors", tensors, {"format": "pt"})
    return target
