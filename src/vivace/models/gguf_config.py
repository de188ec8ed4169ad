"""ModelSpec from a GGUF file's metadata, and from the few tensors that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from vivace.core.errors import ModelFileError
from vivace.formats.dequantize import dequantize
from vivace.models.config_fields import ConfigFields
from vivace.models.families import FAMILIES, Family, sliding_windows
from vivace.models.parameters import CheckpointTensors
from vivace.models.rope import (
    DivisorScaling,
    LinearScaling,
    LongRopeScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
    default_longrope_attention_factor,
    default_yarn_attention_factor,
)
from vivace.models.spec import LIMITS, ModelSpec
from vivace.models.weight_names import GGUF_EMBEDDING, GGUF_MODEL_NAMES

ARCHITECTURES = tuple(name for name in FAMILIES if name != "mistral")  # Mistral's files say `llama`
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # these scale queries by hidden / heads, and no key says so


class GGUFCheckpoint(CheckpointTensors, Protocol):
    """A checkpoint that carries GGUF metadata."""

    metadata: Mapping[str, Any]


def spec_from_gguf(checkpoint: GGUFCheckpoint) -> ModelSpec:
    """The spec that the metadata describes. Raises ModelFileError naming the key or tensor at fault.

    Norm weights of Gemma are stored as 1 + w in GGUF, so the spec has no offset for them.
    """
    family = _family(checkpoint)
    fields = ConfigFields(checkpoint.metadata, checkpoint.path, prefix=f"{family.name}.")
    names = frozenset(checkpoint.names())
    num_layers = fields.size("block_count", "num_layers")
    num_heads = fields.size("attention.head_count", "num_heads")
    hidden_size = fields.size("embedding_length", "hidden_size")
    head_dim = _head_dim(fields, hidden_size, num_heads)
    max_positions = fields.size("context_length", "max_position_embeddings")
    rope = _rope(checkpoint, fields, head_dim, max_positions)
    return fields.build(
        family=family.name,
        vocab_size=_vocab_size(checkpoint),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.size("attention.head_count_kv", "num_kv_heads", num_heads),
        head_dim=head_dim,
        intermediate_size=fields.size("feed_forward_length", "intermediate_size"),
        max_position_embeddings=max_positions,
        rope=rope,
        sliding_rope=_sliding_rope(fields, family, rope),
        layer_windows=_layer_windows(fields, family, num_layers),
        attention_scale=_attention_scale(family, num_layers, hidden_size, num_heads, head_dim),
        norm_eps=fields.positive("attention.layer_norm_rms_epsilon"),
        activation=family.activation,
        qkv_bias="blk.0.attn_q.bias" in names,
        output_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_down.bias" in names,
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        attention_softcap=_softcap(fields, "attn_logit_softcapping", family.attention_softcap),
        final_softcap=_softcap(fields, "final_logit_softcapping", family.final_softcap),
        embedding_scale=hidden_size**0.5 if family.scaled_embeddings else 1.0,
        tied_embeddings=GGUF_MODEL_NAMES["lm_head"] not in names,
        **_special_tokens(checkpoint),
    )


def _family(checkpoint: GGUFCheckpoint) -> Family:
    fields = ConfigFields(checkpoint.metadata, checkpoint.path)
    architecture = fields.text("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise fields.error("general.architecture", f"unknown {architecture!r:.80}; known are {known}")
    return FAMILIES[architecture]


def _head_dim(fields: ConfigFields, hidden_size: int, num_heads: int) -> int:
    if "attention.key_length" not in fields:
        if hidden_size % num_heads:
            reason = f"{num_heads} heads do not divide the embedding length {hidden_size}"
            raise fields.error("attention.head_count", reason)
        return hidden_size // num_heads
    head_dim = fields.size("attention.key_length", "head_dim")
    value_length = fields.size("attention.value_length", "head_dim", head_dim)
    if value_length != head_dim:
        raise fields.error("attention.value_length", f"differs from the key length {head_dim}: not supported")
    return head_dim


def _vocab_size(checkpoint: GGUFCheckpoint) -> int:
    """Rows of the embedding table: files give it nowhere else for certain."""
    if GGUF_EMBEDDING not in frozenset(checkpoint.names()):
        reason = "has no such tensor: a vocabulary-only file, or not a language model"
        raise ModelFileError(checkpoint.path, reason, field=GGUF_EMBEDDING)
    return checkpoint.tensor(GGUF_EMBEDDING).shape[0]


def _rope(checkpoint: GGUFCheckpoint, fields: ConfigFields, head_dim: int, max_positions: int) -> RopeSpec:
    rotary_dim = fields.size("rope.dimension_count", "head_dim", head_dim)
    theta = fields.positive("rope.freq_base", 10_000.0)
    divisors = _factors(checkpoint, "rope_freqs.weight")
    if divisors is not None:
        return RopeSpec(theta, rotary_dim, DivisorScaling(divisors))
    short, long = (_factors(checkpoint, f"rope_factors_{kind}.weight") for kind in ("short", "long"))
    if short is not None and long is not None:
        return RopeSpec(theta, rotary_dim, _longrope(fields, short, long, max_positions))
    return RopeSpec(theta, rotary_dim, _scaling(fields, max_positions))


def _factors(checkpoint: GGUFCheckpoint, name: str) -> tuple[float, ...] | None:
    """A small vector that belongs to the configuration; None if the file has none."""
    if name not in frozenset(checkpoint.names()):
        return None
    tensor = checkpoint.tensor(name)
    if len(tensor.shape) != 1 or tensor.shape[0] > LIMITS["head_dim"]:
        raise ModelFileError(checkpoint.path, f"must be a short vector, has shape {tensor.shape}", field=name)
    return tuple(dequantize(tensor).tolist())


def _original(fields: ConfigFields, max_positions: int) -> int:
    key, limit = "rope.scaling.original_context_length", LIMITS["max_position_embeddings"]
    original = fields.count(key, limit, max_positions)
    if original < 2:
        raise fields.error(key, "must be at least 2")
    return original


def _longrope(
    fields: ConfigFields, short: tuple[float, ...], long: tuple[float, ...], max_positions: int
) -> LongRopeScaling:
    original = _original(fields, max_positions)
    default = default_longrope_attention_factor(max_positions / original, original)
    return LongRopeScaling(short, long, original, fields.positive("rope.scaling.attn_factor", default))


def _scaling(fields: ConfigFields, max_positions: int) -> RopeScaling | None:
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = fields.positive("rope.scaling.factor")
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "yarn":
        attention_factor = default_yarn_attention_factor(factor) * fields.positive("rope.scaling.attn_factor", 1.0)
        return YarnScaling(factor, _original(fields, max_positions), attention_factor)
    raise fields.error("rope.scaling.type", f"unknown {kind!r:.80}; known are none, linear, yarn")


def _sliding_rope(fields: ConfigFields, family: Family, rope: RopeSpec) -> RopeSpec | None:
    """Layers with a window keep their own base, and no scaling."""
    if family.sliding_rope_theta is None:
        return None
    return RopeSpec(fields.positive("rope.freq_base_swa", family.sliding_rope_theta), rope.rotary_dim)


def _layer_windows(fields: ConfigFields, family: Family, num_layers: int) -> tuple[int | None, ...]:
    key = "attention.sliding_window"
    if not fields.get(key):  # absent, or 0: off
        return (None,) * num_layers
    window = fields.count(key, LIMITS["max_position_embeddings"])
    pattern = "attention.sliding_window_pattern"  # a period, or which layers have the window; rarely written
    has_window = fields.get(pattern)
    if isinstance(has_window, list | np.ndarray):
        if len(has_window) != num_layers:
            raise fields.error(pattern, f"has {len(has_window)} values for {num_layers} layers")
        return tuple(window if flag else None for flag in has_window)
    return sliding_windows(num_layers, window, fields.count(pattern, LIMITS["num_layers"], family.sliding_pattern))


def _attention_scale(family: Family, num_layers: int, hidden_size: int, num_heads: int, head_dim: int) -> float:
    if LAYERS_OF_27B.get(family.name) == num_layers:
        return float((hidden_size / num_heads) ** -0.5)
    return float(head_dim**-0.5)


def _softcap(fields: ConfigFields, key: str, default: float | None) -> float | None:
    """0 switches it off."""
    if key in fields and fields.number(key) == 0:
        return None
    return fields.positive(key, default) if default is not None or key in fields else None


def _special_tokens(checkpoint: GGUFCheckpoint) -> dict[str, Any]:
    fields = ConfigFields(checkpoint.metadata, checkpoint.path, prefix="tokenizer.ggml.")
    ends = [token for key in ("eos_token_id", "eot_token_id", "eom_token_id") for token in fields.token_ids(key)]
    begin = fields.token_ids("bos_token_id")
    return {"bos_token_id": begin[0] if begin else None, "eos_token_ids": tuple(dict.fromkeys(ends))}
