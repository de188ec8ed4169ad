"""Configurations of well-known models, as their config.json files give them: real shapes for random weights."""

from __future__ import annotations

from typing import Any

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.models.hf_config import spec_from_hf_config
from vivace.models.spec import ModelSpec

_LLAMA_3 = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "bos_token_id": 128_000,
    "eos_token_id": [128_001, 128_008, 128_009],
}
_LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8_192,
}
_QWEN = {
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
}

PRESETS: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": _LLAMA_3
    | {
        "hidden_size": 2_048,
        "intermediate_size": 8_192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "rope_scaling": _LLAMA_3_ROPE,
        "tie_word_embeddings": True,
    },
    "llama-3.2-3b": _LLAMA_3
    | {
        "hidden_size": 3_072,
        "intermediate_size": 8_192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
        "rope_scaling": _LLAMA_3_ROPE,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": _LLAMA_3
    | {
        "hidden_size": 4_096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rope_scaling": _LLAMA_3_ROPE | {"factor": 8.0},
    },
    "qwen2.5-0.5b": _QWEN
    | {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
    },
    "qwen2.5-1.5b": _QWEN
    | {
        "model_type": "qwen2",
        "hidden_size": 1_536,
        "intermediate_size": 8_960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
    },
    "qwen3-0.6b": _QWEN
    | {
        "model_type": "qwen3",
        "hidden_size": 1_024,
        "intermediate_size": 3_072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
    },
    "gemma-2-2b": {
        "model_type": "gemma2",
        "vocab_size": 256_000,
        "hidden_size": 2_304,
        "intermediate_size": 9_216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8_192,
        "sliding_window": 4_096,
        "query_pre_attn_scalar": 256,
        "bos_token_id": 2,
        "eos_token_id": [1, 107],
    },
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8_192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "tinyllama-1.1b": {
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 2_048,
        "intermediate_size": 5_632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2_048,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "vocab_size": 32_000,
        "hidden_size": 4_096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32_768,
        "sliding_window": 4_096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "phi-3-mini": {
        "model_type": "phi3",
        "vocab_size": 32_064,
        "hidden_size": 3_072,
        "intermediate_size": 8_192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4_096,
        "sliding_window": 2_047,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32_000,
    },
}


def preset_spec(name: str) -> ModelSpec:
    """The spec of a well-known model by its short name. Raises ConfigError naming the nearest one."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}{nearest_name(name, list(PRESETS))}")
    return spec_from_hf_config(PRESETS[name], f"preset {name}")
