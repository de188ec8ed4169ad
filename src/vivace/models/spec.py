"""What a model is: a set of fields. Llama, Mistral, Qwen, Gemma and Phi differ in nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vivace.core.errors import ConfigError
from vivace.models.rope import DivisorScaling, LongRopeScaling, RopeSpec, inverse_frequencies
from vivace.ops.program import Activation

# The largest value that a model file may claim: some 8 times the largest published, far below what would overflow.
LIMITS: dict[str, int] = {
    "vocab_size": 1 << 21,
    "hidden_size": 1 << 17,
    "num_layers": 1_024,
    "num_heads": 2_048,
    "num_kv_heads": 2_048,
    "head_dim": 2_048,
    "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 27,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Sizes and switches of one decoder. Raises ConfigError where they contradict each other.

    `layer_windows` holds the sliding window of each layer in tokens (the current one counts), None where a layer
    sees everything. `post_norms`: attention and feed-forward are normed a second time, before they are added.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    rope: RopeSpec
    layer_windows: tuple[int | None, ...]
    attention_scale: float
    sliding_rope: RopeSpec | None = None  # of layers with a window, where it differs
    norm_eps: float = 1e-6
    norm_weight_offset: float = 0.0  # Gemma stores w of (1 + w); added at load
    activation: Activation = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    attention_softcap: float | None = None
    final_softcap: float | None = None
    embedding_scale: float = 1.0
    tied_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise ConfigError(f"{name} must be from 1 to {limit}, got {value}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"{self.num_heads} query heads do not divide among {self.num_kv_heads} key/value heads")
        if len(self.layer_windows) != self.num_layers:
            raise ConfigError(f"{len(self.layer_windows)} windows for {self.num_layers} layers")
        if any(window is not None and window < 1 for window in self.layer_windows):
            raise ConfigError("a sliding window must be at least 1 token")
        self._check_numbers()
        for rope in (self.rope, self.sliding_rope):
            if rope is not None:
                self._check_rope(rope)

    def _check_numbers(self) -> None:
        for name in ("norm_eps", "attention_scale", "embedding_scale", "attention_softcap", "final_softcap"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value}")

    def _check_rope(self, rope: RopeSpec) -> None:
        if not 2 <= rope.rotary_dim <= self.head_dim or rope.rotary_dim % 2:
            raise ConfigError(f"rotary dimension {rope.rotary_dim} must be even, from 2 to head_dim {self.head_dim}")
        if not (math.isfinite(rope.theta) and rope.theta > 1):
            raise ConfigError(f"rope theta must be a number above 1, got {rope.theta}")
        if isinstance(rope.scaling, LongRopeScaling):
            factor_sets = [rope.scaling.short_factors, rope.scaling.long_factors]
        else:
            factor_sets = [rope.scaling.divisors] if isinstance(rope.scaling, DivisorScaling) else []
        for factors in factor_sets:
            if len(factors) != rope.rotary_dim // 2:
                raise ConfigError(f"rope scaling has {len(factors)} factors for {rope.rotary_dim // 2} pairs")
            if not all(math.isfinite(factor) and factor > 0 for factor in factors):
                raise ConfigError("rope scaling factors must be positive numbers")
        if not _has_finite_frequencies(rope):
            raise ConfigError(f"rope scaling gives frequencies that are not finite: {rope.scaling!r:.200}")

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def layer_rope(self, layer: int) -> RopeSpec:
        """The rotary embedding of one layer."""
        if self.sliding_rope is not None and self.layer_windows[layer] is not None:
            return self.sliding_rope
        return self.rope


def _has_finite_frequencies(rope: RopeSpec) -> bool:
    try:
        with np.errstate(all="ignore"):
            sets = [inverse_frequencies(rope), inverse_frequencies(rope, long=True)]
    except (ValueError, OverflowError):
        return False
    return math.isfinite(rope.scale) and all(bool(np.isfinite(frequencies).all()) for frequencies in sets)
