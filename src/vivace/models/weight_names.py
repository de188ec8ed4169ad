"""Where a checkpoint keeps each parameter: Hugging Face's names and GGUF's."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vivace.models.spec import ModelSpec

HF_PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")  # the middle two: Gemma 3 with images
HF_LM_HEADS = ("lm_head.weight", "language_model.lm_head.weight")
GGUF_EMBEDDING = "token_embd.weight"

HF_LAYER_NAMES: dict[str, str] = {
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.o_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "gate_bias": "mlp.gate_proj.bias",
    "up_bias": "mlp.up_proj.bias",
    "down_bias": "mlp.down_proj.bias",
}
HF_POST_NORM_NAMES: dict[str, str] = {  # with post norms, "post_attention_layernorm" is what its name says
    "post_attention_norm": "post_attention_layernorm.weight",
    "feed_forward_norm": "pre_feedforward_layernorm.weight",
    "post_feed_forward_norm": "post_feedforward_layernorm.weight",
}
HF_FUSED_NAMES: dict[str, str] = {"qkv": "self_attn.qkv_proj.weight", "gate_up": "mlp.gate_up_proj.weight"}

GGUF_LAYER_NAMES: dict[str, str] = {
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "o_bias": "attn_output.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "post_attention_norm": "post_attention_norm.weight",
    "feed_forward_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "gate_bias": "ffn_gate.bias",
    "up_bias": "ffn_up.bias",
    "down_bias": "ffn_down.bias",
    "post_feed_forward_norm": "post_ffw_norm.weight",
}
GGUF_FUSED_NAMES: dict[str, str] = {"qkv": "attn_qkv.weight", "gate_up": "ffn_up.weight"}
GGUF_MODEL_NAMES: dict[str, str] = {
    "token_embedding": GGUF_EMBEDDING,
    "final_norm": "output_norm.weight",
    "lm_head": "output.weight",
}
GGUF_INTERLEAVED_FAMILIES = frozenset({"llama"})  # q and k rows in the order of interleaved rope


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Rows `rows` of the tensor `name`; None: all of them. `num_stored_rows` is the whole tensor's count."""

    name: str
    num_stored_rows: int
    rows: slice | NDArray[np.intp] | None = None


class WeightNames(Protocol):
    """Names of one kind of file, for one model."""

    def model(self, parameter: str) -> WeightSource: ...

    def layer(self, parameter: str, layer: int, num_rows: int) -> WeightSource: ...


def weight_names(spec: ModelSpec, names: Container[str]) -> WeightNames:
    """Names as the checkpoint that holds `names` gives them: GGUF's if it has GGUF's embedding table."""
    return GGUFNames(spec) if GGUF_EMBEDDING in names else HFNames(spec, names)


class HFNames:
    """`model.layers.0.self_attn.q_proj.weight`, with the prefix that the file uses."""

    def __init__(self, spec: ModelSpec, names: Container[str]) -> None:
        self.spec = spec
        found = [prefix for prefix in HF_PREFIXES if f"{prefix}embed_tokens.weight" in names]
        self.prefix = found[0] if found else HF_PREFIXES[0]
        self.lm_head = next((name for name in HF_LM_HEADS if name in names), HF_LM_HEADS[0])
        self.is_fused = f"{self.prefix}layers.0.{HF_FUSED_NAMES['qkv']}" in names
        self.layer_names = HF_LAYER_NAMES | (HF_POST_NORM_NAMES if spec.post_norms else {})

    def model(self, parameter: str) -> WeightSource:
        names = {
            "token_embedding": f"{self.prefix}embed_tokens.weight",
            "final_norm": f"{self.prefix}norm.weight",
            "lm_head": self.lm_head,
        }
        return WeightSource(names[parameter], _model_rows(self.spec, parameter))

    def layer(self, parameter: str, layer: int, num_rows: int) -> WeightSource:
        prefix = f"{self.prefix}layers.{layer}."
        if self.is_fused and (part := fused_part(self.spec, parameter)) is not None:
            fused, num_stored_rows, rows = part
            return WeightSource(prefix + HF_FUSED_NAMES[fused], num_stored_rows, rows)
        return WeightSource(prefix + self.layer_names[parameter], num_rows)


class GGUFNames:
    """`blk.0.attn_q.weight`."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.is_fused = spec.family == "phi3"

    def model(self, parameter: str) -> WeightSource:
        return WeightSource(GGUF_MODEL_NAMES[parameter], _model_rows(self.spec, parameter))

    def layer(self, parameter: str, layer: int, num_rows: int) -> WeightSource:
        prefix = f"blk.{layer}."
        if self.is_fused and (part := fused_part(self.spec, parameter)) is not None:
            fused, num_stored_rows, rows = part
            return WeightSource(prefix + GGUF_FUSED_NAMES[fused], num_stored_rows, rows)
        name = prefix + GGUF_LAYER_NAMES[parameter]
        if self.spec.family in GGUF_INTERLEAVED_FAMILIES and parameter in ("q", "k", "q_bias", "k_bias"):
            order = half_split_order(num_rows, self.spec.head_dim, self.spec.layer_rope(layer).rotary_dim)
            return WeightSource(name, num_rows, order)
        return WeightSource(name, num_rows)


def _model_rows(spec: ModelSpec, parameter: str) -> int:
    return spec.hidden_size if parameter == "final_norm" else spec.vocab_size


def fused_part(spec: ModelSpec, parameter: str) -> tuple[str, int, slice] | None:
    """Phi-3's fused matrices: which one holds this parameter, its row count, and the parameter's rows."""
    groups = {
        "qkv": {"q": spec.query_size, "k": spec.kv_size, "v": spec.kv_size},
        "gate_up": {"gate": spec.intermediate_size, "up": spec.intermediate_size},
    }
    for fused, sizes in groups.items():
        start = 0
        for part, size in sizes.items():
            if part == parameter:
                return fused, sum(sizes.values()), slice(start, start + size)
            start += size
    return None


def half_split_order(num_rows: int, head_dim: int, rotary_dim: int) -> NDArray[np.intp]:
    """Row indices that turn interleaved pairs (2i, 2i + 1) of each head into half-split pairs (i, i + P).

    GGUF files of the `llama` architecture hold q and k in the interleaved order.
    """
    head = np.arange(head_dim, dtype=np.intp)
    head[:rotary_dim] = head[:rotary_dim].reshape(-1, 2).T.reshape(-1)
    starts = np.arange(0, num_rows, head_dim, dtype=np.intp)
    return (starts[:, None] + head).reshape(-1)
