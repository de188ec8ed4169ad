"""The shape that each parameter of a model must have.

Shape letters: D hidden, Q all query heads, G all key/value heads, F feed-forward, K head dimension.
"""

from __future__ import annotations

from vivace.models.spec import ModelSpec

Shape = tuple[int, ...]


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
