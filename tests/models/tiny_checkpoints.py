"""Small random checkpoints of every family, made with transformers, whose logits are the truth.

Every parameter is random: transformers initialises biases to 0 and norms to 1, which would hide a missing one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SEED = 20_261_122
VOCAB_SIZE = 96
NUM_LAYERS = 4
PROMPT_LEN = 24
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.5, 1.7],
    "long_factor": [1.3, 2.0, 3.0, 4.0, 6.0, 9.0],
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}


@dataclass(frozen=True)
class Case:
    """A configuration that differs from SIZES in `fields`, run with `max_model_len`."""

    name: str
    model_type: str
    fields: dict[str, Any] = field(default_factory=dict)
    max_model_len: int = 128

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("llama-gqa", "llama"),
    Case("llama-mha", "llama", {"num_key_value_heads": 4}),
    Case("llama-mqa-tied", "llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Case("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama-wide-heads", "llama", {"head_dim": 20, "hidden_act": "gelu"}),
    Case("llama3-rope", "llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 24}),
    Case("llama-linear-rope", "llama", {"rope_parameters": LINEAR_ROPE}),
    Case("llama-yarn", "llama", {"rope_parameters": YARN_ROPE, "head_dim": 24}),
    Case("mistral-window", "mistral", {"sliding_window": 5}),
    Case("mistral-no-window", "mistral", {"sliding_window": None}),
    Case("qwen2", "qwen2"),
    Case(
        "qwen2-window-tied",
        "qwen2",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    Case("qwen3", "qwen3", {"head_dim": 16}),
    Case("qwen3-biases-tied", "qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    Case("gemma-mqa", "gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    Case("gemma-biases", "gemma", {"attention_bias": True}),
    Case(
        "gemma2",
        "gemma2",
        {
            "sliding_window": 6,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    Case("gemma2-no-caps", "gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Case(
        "gemma3",
        "gemma3_text",
        {
            "sliding_window": 5,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 20,
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
    Case("phi3-window", "phi3", {"sliding_window": 7}),
    Case("phi3-partial-rotary", "phi3", {"rope_parameters": {"rope_theta": 1000.0, "partial_rotary_factor": 0.5}}),
    Case("phi3-longrope-short", "phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 32}, 32),
    Case("phi3-longrope-long", "phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 16}),
]
CASES_BY_NAME = {case.name: case for case in CASES}


def make_model(case: Case) -> transformers.PreTrainedModel:
    """The case's model, float32, with every parameter random and logits of some units."""
    torch.set_num_threads(1)
    fields = SIZES | case.fields
    if case.model_type == "phi3":
        fields = {key: value for key, value in fields.items() if key != "head_dim"}
    config = transformers.AutoConfig.for_model(case.model_type, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(model, case.model_type)
    return model


def randomize(model: transformers.PreTrainedModel, model_type: str) -> None:
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(0.2 * noise + (0 if model_type.startswith("gemma") else 1))
            elif parameter.ndim == 1:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))


def prompt_tokens(seed: int = SEED, length: int = PROMPT_LEN) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).astype(np.int32)


def true_logits(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """[T, V] as transformers computes them."""
    with torch.no_grad():
        return model(torch.asarray(tokens)[None].long()).logits[0].numpy()


def true_hidden(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """[T, D] after the final norm, as transformers computes it."""
    with torch.no_grad():
        return model.model(torch.asarray(tokens)[None].long()).last_hidden_state[0].numpy()


def save(model: transformers.PreTrainedModel, directory: Path) -> None:
    model.save_pretrained(directory)
