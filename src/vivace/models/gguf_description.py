"""What a GGUF file says of a model: the way back from a ModelSpec to the metadata that gguf_config reads.

What GGUF has no words for is refused, and found by reading the description back: a spec that came out different
would be another model under the same name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from vivace.core.errors import UnsupportedError
from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.parameter_shapes import layer_shapes
from vivace.models.rope import (
    DivisorScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeSpec,
    YarnScaling,
    default_yarn_attention_factor,
    inverse_frequencies,
)
from vivace.models.spec import ModelSpec
from vivace.models.weight_names import GGUF_EMBEDDING, GGUF_LAYER_NAMES, GGUF_MODEL_NAMES

Tensors = dict[str, StoredTensor]


def gguf_spec(spec: ModelSpec) -> ModelSpec:
    """The spec as a GGUF file's reader will see it: Mistral's files say `llama`, Gemma's norms hold 1 + w."""
    return replace(spec, family="llama" if spec.family == "mistral" else spec.family, norm_weight_offset=0.0)


def describe(spec: ModelSpec, name: str) -> tuple[dict[str, MetadataValue], Tensors]:
    """Metadata, and the small tensors that belong to it (rotary factors), all but the tokenizer's.

    Raises UnsupportedError naming the field of the spec that GGUF cannot express.
    """
    spec = gguf_spec(spec)
    values: dict[str, MetadataValue] = {
        "vocab_size": spec.vocab_size,
        "context_length": spec.max_position_embeddings,
        "embedding_length": spec.hidden_size,
        "block_count": spec.num_layers,
        "feed_forward_length": spec.intermediate_size,
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": spec.num_kv_heads,
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        "attention.layer_norm_rms_epsilon": float(spec.norm_eps),
        "rope.dimension_count": spec.rope.rotary_dim,
        "rope.freq_base": float(spec.rope.theta),
        **_windows(spec),
        **_scaling(spec.rope),
    }
    if spec.family in ("gemma2", "gemma3"):
        values["attn_logit_softcapping"] = float(spec.attention_softcap or 0)
        values["final_logit_softcapping"] = float(spec.final_softcap or 0)
    if spec.sliding_rope is not None:
        values["rope.freq_base_swa"] = float(spec.sliding_rope.theta)
    metadata: dict[str, MetadataValue] = {"general.architecture": spec.family, "general.name": name}
    metadata |= {f"{spec.family}.{key}": value for key, value in values.items()}
    tensors = _rope_tensors(spec.rope)
    _refuse_what_is_lost(spec, metadata, tensors)
    return metadata, tensors


def _windows(spec: ModelSpec) -> dict[str, MetadataValue]:
    windows = {window for window in spec.layer_windows if window is not None}
    if not windows:
        return {}
    if len(windows) > 1:
        raise UnsupportedError(f"GGUF has one sliding window for all layers, this model has {sorted(windows)}")
    has_window = np.array([window is not None for window in spec.layer_windows])
    values: dict[str, MetadataValue] = {"attention.sliding_window": windows.pop()}
    if not has_window.all():
        values["attention.sliding_window_pattern"] = has_window
    return values


def _scaling(rope: RopeSpec) -> dict[str, MetadataValue]:
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    if isinstance(scaling, YarnScaling):
        attention_factor = scaling.attention_factor / default_yarn_attention_factor(scaling.factor)
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling.factor),
            "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
            "rope.scaling.attn_factor": float(attention_factor),
        }
    if isinstance(scaling, LongRopeScaling):
        return {
            "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
            "rope.scaling.attn_factor": float(scaling.attention_factor),
        }
    return {}


def _rope_tensors(rope: RopeSpec) -> Tensors:
    """Divisors of the frequencies, as llama.cpp's conversion stores them."""
    scaling = rope.scaling
    factors: dict[str, Sequence[float] | np.ndarray] = {}
    if isinstance(scaling, Llama3Scaling):
        plain = inverse_frequencies(RopeSpec(rope.theta, rope.rotary_dim)).astype(np.float64)
        factors["rope_freqs.weight"] = plain / inverse_frequencies(rope)
    if isinstance(scaling, DivisorScaling):
        factors["rope_freqs.weight"] = scaling.divisors
    if isinstance(scaling, LongRopeScaling):
        factors["rope_factors_short.weight"] = scaling.short_factors
        factors["rope_factors_long.weight"] = scaling.long_factors
    return {name: encode(np.asarray(values, np.float32), "f32", name) for name, values in factors.items()}


class _Described:
    """A checkpoint of which only the description exists."""

    path = Path("GGUF description")

    def __init__(self, spec: ModelSpec, metadata: Mapping[str, MetadataValue], tensors: Tensors) -> None:
        self.metadata = metadata
        embedding = StoredTensor(GGUF_EMBEDDING, "f32", (spec.vocab_size, 1), np.zeros((1, 4), np.uint8))
        self._tensors = {**tensors, GGUF_EMBEDDING: embedding}
        self._names = [*self._tensors, *(f"blk.0.{GGUF_LAYER_NAMES[name]}" for name in layer_shapes(spec))]
        if not spec.tied_embeddings:
            self._names.append(GGUF_MODEL_NAMES["lm_head"])

    def names(self) -> list[str]:
        return self._names

    def tensor(self, name: str) -> StoredTensor:
        return self._tensors[name]


def _refuse_what_is_lost(spec: ModelSpec, metadata: Mapping[str, MetadataValue], tensors: Tensors) -> None:
    back = spec_from_gguf(_Described(spec, metadata, tensors))
    ignored = ("bos_token_id", "eos_token_ids", "rope", "sliding_rope")  # the first two are the tokenizer's
    lost = [
        field.name
        for field in fields(spec)
        if field.name not in ignored and not _same(getattr(spec, field.name), getattr(back, field.name))
    ]
    for name in ("rope", "sliding_rope"):
        if not _same_rope(getattr(spec, name), getattr(back, name)):
            lost.append(name)
    if lost:
        told = "; ".join(f"{name} {getattr(spec, name)!r:.80}" for name in lost)
        raise UnsupportedError(f"GGUF has no words for this model's {told}: write safetensors instead")


def _same(ours: object, theirs: object) -> bool:
    """Equal, numbers to the precision of the format's float32."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs


def _same_rope(ours: RopeSpec | None, theirs: RopeSpec | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return (
        ours.rotary_dim == theirs.rotary_dim
        and _same(ours.scale, theirs.scale)
        and all(
            np.allclose(
                inverse_frequencies(ours, long=long), inverse_frequencies(theirs, long=long), rtol=1e-6, atol=0
            )
            for long in (False, True)
        )
    )
