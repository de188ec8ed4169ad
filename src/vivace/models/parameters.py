"""The parameters of a decoder as a backend holds them, and the shape that each must have.

Shape letters: D hidden, Q all query heads, G all key/value heads, F feed-forward, K head dimension, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.models.rope import LongRopeScaling, RopeSpec, inverse_frequencies
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend
from vivace.ops.program import Weight

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParameters:
    """One layer. What a family lacks is None."""

    attention_norm: Weight
    q: Weight
    k: Weight
    v: Weight
    o: Weight
    feed_forward_norm: Weight
    gate: Weight
    up: Weight
    down: Weight
    q_bias: Weight | None = None
    k_bias: Weight | None = None
    v_bias: Weight | None = None
    o_bias: Weight | None = None
    gate_bias: Weight | None = None
    up_bias: Weight | None = None
    down_bias: Weight | None = None
    q_norm: Weight | None = None
    k_norm: Weight | None = None
    post_attention_norm: Weight | None = None
    post_feed_forward_norm: Weight | None = None


@dataclass(frozen=True, slots=True)
class RopeFrequencies:
    """Inverse frequencies; `long` are LongRoPE's for long contexts, None elsewhere."""

    short: Weight
    long: Weight | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """All of them. `lm_head` is `token_embedding` itself where embeddings are tied."""

    token_embedding: Weight
    layers: tuple[LayerParameters, ...]
    final_norm: Weight
    lm_head: Weight
    rope: RopeFrequencies
    sliding_rope: RopeFrequencies | None

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed matrices and vectors, a tied table once."""
        weights = {self.token_embedding, self.lm_head, self.final_norm}
        for layer in self.layers:
            weights.update(weight for name in LayerParameters.__slots__ if (weight := getattr(layer, name)))
        return sum(weight.num_bytes for weight in weights)


def layer_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Shape of each parameter that a layer of this model has, by its name in `LayerParameters`."""
    D, Q, G, F, K = spec.hidden_size, spec.query_size, spec.kv_size, spec.intermediate_size, spec.head_dim
    shapes: dict[str, Shape] = {
        "attention_norm": (D,),
        "q": (Q, D),
        "k": (G, D),
        "v": (G, D),
        "o": (D, Q),
        "feed_forward_norm": (D,),
        "gate": (F, D),
        "up": (F, D),
        "down": (D, F),
    }
    if spec.qkv_bias:
        shapes |= {"q_bias": (Q,), "k_bias": (G,), "v_bias": (G,)}
    if spec.output_bias:
        shapes |= {"o_bias": (D,)}
    if spec.mlp_bias:
        shapes |= {"gate_bias": (F,), "up_bias": (F,), "down_bias": (D,)}
    if spec.qk_norm:
        shapes |= {"q_norm": (K,), "k_norm": (K,)}
    if spec.post_norms:
        shapes |= {"post_attention_norm": (D,), "post_feed_forward_norm": (D,)}
    return shapes


def model_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Shape of each parameter outside the layers; no `lm_head` where embeddings are tied."""
    shapes: dict[str, Shape] = {
        "token_embedding": (spec.vocab_size, spec.hidden_size),
        "final_norm": (spec.hidden_size,),
    }
    if not spec.tied_embeddings:
        shapes["lm_head"] = (spec.vocab_size, spec.hidden_size)
    return shapes


def is_norm(name: str) -> bool:
    return name.endswith("norm")


def rope_frequencies(backend: Backend, name: str, rope: RopeSpec) -> RopeFrequencies:
    """The vectors that `build_decoder` chooses from by max_model_len."""
    short = backend.vector(name, inverse_frequencies(rope))
    if not isinstance(rope.scaling, LongRopeScaling):
        return RopeFrequencies(short, None)
    return RopeFrequencies(short, backend.vector(f"{name}.long", inverse_frequencies(rope, long=True)))


def assemble(
    spec: ModelSpec, backend: Backend, model: dict[str, Weight], layers: list[dict[str, Weight]]
) -> Parameters:
    """Parameters from packed weights by name, with the rotary frequencies added."""
    sliding = spec.sliding_rope
    return Parameters(
        token_embedding=model["token_embedding"],
        layers=tuple(LayerParameters(**layer) for layer in layers),
        final_norm=model["final_norm"],
        lm_head=model.get("lm_head", model["token_embedding"]),
        rope=rope_frequencies(backend, "rope", spec.rope),
        sliding_rope=None if sliding is None else rope_frequencies(backend, "sliding_rope", sliding),
    )
