"""What the members of a family share and no file says."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.ops.program import Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Fields of `ModelSpec` that follow from the family, and values that its files may leave out.

    `sliding_pattern` n: where a file does not list layer kinds, every n-th layer sees everything and the others
    have the window; 1: the window, if any, is every layer's own.
    """

    name: str
    activation: Activation = "silu"
    norm_weight_offset: float = 0.0
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    scaled_embeddings: bool = False  # by sqrt(hidden_size)
    tied_embeddings: bool = False
    sliding_pattern: int = 1
    rope_theta: float = 10_000.0
    sliding_rope_theta: float | None = None  # rotary base of layers with a window, where it differs
    head_dim: int | None = None  # None: hidden_size / num_heads
    num_heads: int | None = None
    num_kv_heads: int | None = None
    vocab_size: int | None = None
    sliding_window: int | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None
    max_position_embeddings: int | None = None


LLAMA = Family(name="llama", max_position_embeddings=2_048)
MISTRAL = Family(name="mistral", sliding_window=4_096, max_position_embeddings=131_072)
QWEN2 = Family(name="qwen2", qkv_bias=True, max_position_embeddings=32_768)
QWEN3 = Family(name="qwen3", qk_norm=True, head_dim=128, max_position_embeddings=32_768)
GEMMA = Family(
    name="gemma",
    activation="gelu_tanh",
    norm_weight_offset=1.0,
    scaled_embeddings=True,
    tied_embeddings=True,
    head_dim=256,
    max_position_embeddings=8_192,
)
GEMMA2 = Family(
    name="gemma2",
    activation="gelu_tanh",
    norm_weight_offset=1.0,
    post_norms=True,
    scaled_embeddings=True,
    tied_embeddings=True,
    sliding_pattern=2,
    sliding_window=4_096,
    head_dim=256,
    attention_softcap=50.0,
    final_softcap=30.0,
    max_position_embeddings=8_192,
)
GEMMA3 = Family(
    name="gemma3",
    activation="gelu_tanh",
    norm_weight_offset=1.0,
    qk_norm=True,
    post_norms=True,
    scaled_embeddings=True,
    tied_embeddings=True,
    sliding_pattern=6,
    sliding_window=4_096,
    rope_theta=1_000_000.0,
    sliding_rope_theta=10_000.0,
    head_dim=256,
    num_heads=8,  # published files leave out what equals the configuration class's default
    num_kv_heads=4,
    vocab_size=262_208,
    max_position_embeddings=131_072,
)
PHI3 = Family(name="phi3", max_position_embeddings=4_096)

FAMILIES: dict[str, Family] = {
    family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, PHI3)
}


def sliding_windows(num_layers: int, window: int | None, pattern: int) -> tuple[int | None, ...]:
    """Window of each layer: every `pattern`-th layer sees everything (none does if `pattern` is 1)."""
    if pattern == 1:
        return (window,) * num_layers
    return tuple(None if (layer + 1) % pattern == 0 else window for layer in range(num_layers))
