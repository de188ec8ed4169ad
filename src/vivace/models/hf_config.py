"""ModelSpec from a Hugging Face config.json, as transformers 4 and 5 write it."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from vivace.formats.config_json import CONFIG_NAME, read_config_json
from vivace.formats.model_directory import model_file
from vivace.models.config_fields import ConfigFields
from vivace.models.families import FAMILIES, Family, sliding_windows
from vivace.models.hf_rope import read_ropes
from vivace.models.spec import LIMITS, ModelSpec
from vivace.ops.program import Activation

TEXT_MODEL_TYPES = {"gemma3_text": "gemma3"}  # model_type: family, where they differ
MODEL_TYPES = sorted({*FAMILIES, *TEXT_MODEL_TYPES})
# Of a model with images, beside its text_config.
SHARED_KEYS = ("bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config")
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def read_hf_config(directory: str | PathLike[str]) -> ModelSpec:
    """The spec of a model directory. Raises ModelFileError naming the key at fault."""
    return read_config_file(model_file(directory, CONFIG_NAME))


def read_config_file(path: Path) -> ModelSpec:
    """The spec in a file of config.json's form, whatever its name. Raises ModelFileError naming the key at fault."""
    return spec_from_hf_config(read_config_json(path), path)


def spec_from_hf_config(config: Mapping[str, Any], path: str | PathLike[str] = CONFIG_NAME) -> ModelSpec:
    """The spec that a parsed config.json describes. `path` is for messages."""
    fields, family = _text_model(ConfigFields(config, path))
    _refuse_what_nothing_serves(fields)
    num_layers = fields.size("num_hidden_layers", "num_layers")
    num_heads = fields.size("num_attention_heads", "num_heads", family.num_heads)
    hidden_size = fields.size("hidden_size", "hidden_size")
    head_dim = _head_dim(fields, family, hidden_size, num_heads)
    max_positions = fields.size("max_position_embeddings", "max_position_embeddings", family.max_position_embeddings)
    attention_bias = fields.flag("attention_bias", False)
    rope, sliding_rope = read_ropes(fields, family, head_dim, max_positions)
    return fields.build(
        family=family.name,
        vocab_size=fields.size("vocab_size", "vocab_size", family.vocab_size),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.size("num_key_value_heads", "num_kv_heads", family.num_kv_heads or num_heads),
        head_dim=head_dim,
        intermediate_size=fields.size("intermediate_size", "intermediate_size"),
        max_position_embeddings=max_positions,
        rope=rope,
        sliding_rope=sliding_rope,
        layer_windows=_layer_windows(fields, family, num_layers),
        attention_scale=_attention_scale(fields, family, head_dim),
        norm_eps=fields.positive("rms_norm_eps", 1e-5 if family.name == "phi3" else 1e-6),
        norm_weight_offset=family.norm_weight_offset,
        activation=_activation(fields, family),
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=fields.flag("mlp_bias", False),
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        attention_softcap=_softcap(fields, "attn_logit_softcapping", family.attention_softcap),
        final_softcap=_softcap(fields, "final_logit_softcapping", family.final_softcap),
        embedding_scale=hidden_size**0.5 if family.scaled_embeddings else 1.0,
        tied_embeddings=fields.flag("tie_word_embeddings", family.tied_embeddings),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def _text_model(fields: ConfigFields) -> tuple[ConfigFields, Family]:
    """The fields of the text decoder and its family. Code that a checkpoint brings along is never run: a known
    model_type needs none of it, an unknown one is refused by name."""
    model_type = fields.text("model_type")
    text = fields.section("text_config")
    if model_type == "gemma3" and text is not None:
        outer = {key: fields.get(key) for key in SHARED_KEYS if key in fields}
        return ConfigFields({**outer, **text.values}, text.path, where=text.where), FAMILIES["gemma3"]
    family = FAMILIES.get(TEXT_MODEL_TYPES.get(model_type, model_type))
    if family is None:
        custom = "; its own code (auto_map) is never imported" if "auto_map" in fields else ""
        raise fields.error("model_type", f"unknown {model_type!r:.80}{custom}; known are {', '.join(MODEL_TYPES)}")
    return fields, family


def _refuse_what_nothing_serves(fields: ConfigFields) -> None:
    if fields.flag("use_bidirectional_attention", False):
        raise fields.error("use_bidirectional_attention", "only causal attention is supported")
    fields.section("quantization_config")  # must be an object; what it says is the checkpoint reader's to judge


def _head_dim(fields: ConfigFields, family: Family, hidden_size: int, num_heads: int) -> int:
    if "head_dim" in fields or family.head_dim is not None:
        return fields.size("head_dim", "head_dim", family.head_dim)
    if hidden_size % num_heads:
        raise fields.error("num_attention_heads", f"{num_heads} heads do not divide hidden_size {hidden_size}")
    return hidden_size // num_heads


def _attention_scale(fields: ConfigFields, family: Family, head_dim: int) -> float:
    if family.name in ("gemma2", "gemma3"):
        return float(fields.positive("query_pre_attn_scalar", 256) ** -0.5)
    return float(head_dim**-0.5)


def _activation(fields: ConfigFields, family: Family) -> Activation:
    """Gemma 1's files say `gelu`, and mean the tanh form: they were made before it had a name."""
    key = "hidden_activation" if "hidden_activation" in fields else "hidden_act"
    default = "gelu_pytorch_tanh" if family.activation == "gelu_tanh" else family.activation
    name = fields.text(key, default)
    if name not in ACTIVATIONS:
        raise fields.error(key, f"unknown activation {name!r:.80}; known are {', '.join(ACTIVATIONS)}")
    return "gelu_tanh" if family.name == "gemma" and name == "gelu" else ACTIVATIONS[name]


def _softcap(fields: ConfigFields, key: str, default: float | None) -> float | None:
    """An explicit null switches it off."""
    if key in fields.values or default is None:
        return fields.optional_positive(key)
    return default


def _layer_windows(fields: ConfigFields, family: Family, num_layers: int) -> tuple[int | None, ...]:
    """The window of each layer, in tokens."""
    if family.name in ("llama", "gemma"):
        return (None,) * num_layers
    if family.name in ("qwen2", "qwen3"):
        return _qwen_windows(fields, num_layers)
    if "sliding_window" not in fields.values and family.sliding_window is not None:
        window: int | None = family.sliding_window
    else:
        limit = LIMITS["max_position_embeddings"]
        window = fields.count("sliding_window", limit) if "sliding_window" in fields else None
    if family.sliding_pattern > 1 and "layer_types" in fields:
        return _windows_by_type(fields, num_layers, window)
    pattern = family.sliding_pattern
    if pattern > 1:
        pattern = fields.count("sliding_window_pattern", LIMITS["num_layers"], pattern)
        pattern = pattern if pattern > 1 else num_layers + 1
    return sliding_windows(num_layers, window, pattern)


def _qwen_windows(fields: ConfigFields, num_layers: int) -> tuple[int | None, ...]:
    """The first `max_window_layers` layers see everything; so do all unless `use_sliding_window` is set."""
    if not fields.flag("use_sliding_window", False) or "sliding_window" not in fields:
        return (None,) * num_layers
    window = fields.count("sliding_window", LIMITS["max_position_embeddings"])
    if "layer_types" in fields:
        return _windows_by_type(fields, num_layers, window)
    num_full = fields.number("max_window_layers", 28)
    return tuple(window if layer >= num_full else None for layer in range(num_layers))


def _windows_by_type(fields: ConfigFields, num_layers: int, window: int | None) -> tuple[int | None, ...]:
    kinds = fields.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise fields.error("layer_types", f"must list the kind of each of the {num_layers} layers")
    windows = {"sliding_attention": window, "full_attention": None}
    for kind in kinds:
        if not isinstance(kind, str) or kind not in windows:
            raise fields.error("layer_types", f"unknown kind {kind!r:.80}; known are {', '.join(windows)}")
    return tuple(windows[kind] for kind in kinds)
