"""Writes a tiny transformers model as GGUF with the `gguf` package, as llama.cpp's conversion does: names from the
package's own map, q and k rows of the llama architecture permuted, Gemma's norms stored as 1 + w."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import transformers
from tiny_checkpoints import Case

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
}


def write_gguf(
    model: transformers.PreTrainedModel,
    case: Case,
    path: Path,
    matrix_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    window_pattern: int | list[bool] | None = None,
    add_vocabulary: Callable[[gguf.GGUFWriter], None] | None = None,
) -> None:
    """Matrices in `matrix_type`, vectors in F32."""
    architecture = ARCHITECTURES[case.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _write_metadata(writer, model.config, window_pattern)
    if add_vocabulary is not None:
        add_vocabulary(writer)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array = _converted(name, values.numpy(), model.config, architecture)
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, name
        if array.ndim == 2:
            writer.add_tensor(gguf_name, gguf.quantize(array, matrix_type), raw_dtype=matrix_type)
        else:
            writer.add_tensor(gguf_name, array)
    for name, factors in _rope_tensors(model.config).items():
        writer.add_tensor(name, np.asarray(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_metadata(
    writer: gguf.GGUFWriter, config: transformers.PreTrainedConfig, window_pattern: int | list[bool] | None
) -> None:
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * full.get("partial_rotary_factor", 1.0)))
    if full["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(full["rope_type"]))
        writer.add_rope_scaling_factor(full["factor"])
    if "original_max_position_embeddings" in full:
        writer.add_rope_scaling_orig_ctx_len(full["original_max_position_embeddings"])
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if config.model_type not in ("llama", "qwen2", "qwen3") and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        if window_pattern is not None:
            writer.add_sliding_window_pattern(window_pattern)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, key, None) is not None:
            getattr(writer, f"add_{key}")(getattr(config, key))
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_bos_token_id(config.bos_token_id)


def _converted(
    name: str, values: np.ndarray, config: transformers.PreTrainedConfig, architecture: gguf.MODEL_ARCH
) -> np.ndarray:
    if architecture == gguf.MODEL_ARCH.LLAMA and ".q_proj." in name:
        return _interleaved(values, config.num_attention_heads)
    if architecture == gguf.MODEL_ARCH.LLAMA and ".k_proj." in name:
        return _interleaved(values, config.num_key_value_heads)
    if "gemma" in config.model_type and name.endswith("norm.weight"):
        return values + 1
    return values


def _interleaved(values: np.ndarray, num_heads: int) -> np.ndarray:
    """`permute` of llama.cpp's convert_hf_to_gguf.py."""
    rows = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))


def _rope_tensors(config: transformers.PreTrainedConfig) -> dict[str, list[float]]:
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        return {"rope_factors_long.weight": rope["long_factor"], "rope_factors_short.weight": rope["short_factor"]}
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(rope, config.head_dim)}
    return {}


def _llama3_divisors(rope: dict, head_dim: int) -> list[float]:
    """`generate_extra_tensors` of llama.cpp's conversion of Llama 3.1."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        if wavelength < context / high:
            divisors.append(1.0)
        elif wavelength > context / low:
            divisors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return divisors
