"""Small random models whose matrices were quantised and packed by packers that share no code with ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantized_packers import (
    AWQ_CONFIG,
    GPTQ_CONFIG,
    LLM_INT8_CONFIG,
    awq_tensors,
    compressed_config,
    gptq_tensors,
    int_quantized_tensors,
    llm_int8_tensors,
    packed_quantized_tensors,
    round_to_nearest,
)
from safetensors.torch import save_file
from tiny_checkpoints import Case, make_model
from transformers import PreTrainedModel

SEED = 20_261_122
WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
Rounding = Callable[[torch.Tensor], torch.Tensor]
Packed = tuple[dict[str, np.ndarray], np.ndarray]  # the tensors of a matrix, and its values
Packer = Callable[[np.ndarray, np.random.Generator], Packed]


@dataclass(frozen=True)
class Scheme:
    """A `quantization_config`, and how a matrix [N, K] becomes tensors."""

    name: str
    config: dict[str, Any]
    pack: Packer
    activations: Rounding | None = None  # what products read in place of their inputs

    def __str__(self) -> str:
        return self.name


def _gptq(bits: int, version: int, *, order: bool, symmetric: bool) -> Scheme:
    def pack(weights: np.ndarray, rng: np.random.Generator) -> Packed:
        groups = np.arange(weights.shape[1]) // 32
        groups = rng.permutation(groups) if order else groups
        q = round_to_nearest(weights, bits, 32, symmetric=symmetric, groups=groups)
        return gptq_tensors(q, version=version), q.weights()

    layout = "gptq" if version == 1 else "gptq_v2"
    config = GPTQ_CONFIG | {"bits": bits, "sym": symmetric, "desc_act": order, "checkpoint_format": layout}
    return Scheme(f"gptq-{bits}-v{version}-{'order' if order else 'runs'}", config, pack)


def _awq(weights: np.ndarray, _: np.random.Generator) -> Packed:
    q = round_to_nearest(weights, 4, 32, symmetric=False)
    return awq_tensors(q), q.weights()


def _w4a16(symmetric: bool) -> Scheme:
    def pack(weights: np.ndarray, _: np.random.Generator) -> Packed:
        q = round_to_nearest(weights, 4, 32, symmetric=symmetric)
        return packed_quantized_tensors(q, symmetric=symmetric), q.weights()

    return Scheme(f"w4a16-{'sym' if symmetric else 'asym'}", compressed_config(4, 32, symmetric=symmetric), pack)


def _w8a8(weights: np.ndarray, _: np.random.Generator) -> Packed:
    q = round_to_nearest(weights, 8, weights.shape[1], symmetric=True)
    return int_quantized_tensors(q), q.weights()


def _llm_int8(weights: np.ndarray, _: np.random.Generator) -> Packed:
    tensors = llm_int8_tensors(weights)
    return tensors, tensors["weight"].astype(np.float32) * (tensors["SCB"] / np.float32(127))[:, None]


def _int8_tokens(x: torch.Tensor) -> torch.Tensor:
    """Each token's row on 255 levels up to its largest magnitude."""
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    return torch.round(x / step) * step


def _int8_inliers(x: torch.Tensor) -> torch.Tensor:
    """LLM.int8(): magnitudes of 6.0 and more stay, the others are rounded without them."""
    is_outlier = x.abs() >= 6
    return torch.where(is_outlier, x, _int8_tokens(torch.where(is_outlier, 0, x)))


SCHEMES = [
    _gptq(4, 1, order=False, symmetric=True),
    _gptq(4, 1, order=True, symmetric=False),
    _gptq(4, 2, order=False, symmetric=False),
    _gptq(8, 2, order=True, symmetric=True),
    Scheme("awq", AWQ_CONFIG, _awq),
    _w4a16(symmetric=True),
    _w4a16(symmetric=False),
    Scheme("w8a8", compressed_config(8, None, symmetric=True, tokens=True), _w8a8, _int8_tokens),
    Scheme("llm_int8", LLM_INT8_CONFIG, _llm_int8, _int8_inliers),
]
SCHEMES_BY_NAME = {scheme.name: scheme for scheme in SCHEMES}


def write_quantized_model(
    directory: Path, scheme: Scheme, case: Case, extra: dict[str, torch.Tensor] | None = None
) -> PreTrainedModel:
    """Writes the case's model with every Linear of its layers packed; the model returned has the same values."""
    model, rng = make_model(case), np.random.default_rng(SEED)
    tensors: dict[str, torch.Tensor] = dict(extra or {})
    for name, parameter in model.named_parameters():
        is_linear = parameter.ndim == 2 and ".layers." in name
        if not is_linear:
            tensors[name] = parameter.detach().clone()
            continue
        parts, values = scheme.pack(parameter.detach().numpy(), rng)
        parameter.data.copy_(torch.from_numpy(values))
        if scheme.activations is not None:
            _read_activations_as(model, name.removesuffix(".weight"), scheme.activations)
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.{part}": torch.from_numpy(np.array(array)) for part, array in parts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"quantization_config": scheme.config}
    (directory / "config.json").write_text(json.dumps(config))
    return model


def _read_activations_as(
    model: PreTrainedModel, module: str, rounding: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model.get_submodule(module).register_forward_pre_hook(lambda _, inputs: (rounding(inputs[0]),))
