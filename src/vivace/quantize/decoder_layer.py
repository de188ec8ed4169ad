"""One decoder layer on whole windows of text, in NumPy: what calibration runs, one stage of products at a time.

The meaning is `ops/reference`'s, from which the elementwise parts come; its products and its attention go row by row
for the sake of batch invariance, which costs some 50 times what whole matrices take here.
Shape letters: T tokens (S windows of L), D hidden, H query heads, G key/value heads, K head dimension, F feed-forward
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vivace.models.rope import inverse_frequencies
from vivace.models.spec import ModelSpec
from vivace.ops import reference

Floats = NDArray[np.float32]
StageName = Literal["qkv", "o", "gate_up", "down"]

QUERIES_AT_ONCE = 128  # half of a window's scores are never computed

STAGES: dict[StageName, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}  # matrices of a stage read the same inputs; a stage's inputs depend on the stages before it
STAGE_OF: dict[str, StageName] = {matrix: stage for stage, matrices in STAGES.items() for matrix in matrices}


@dataclass(frozen=True, slots=True, eq=False)
class DecoderLayer:
    """What lies between the products of layer `index`. `vectors` are as the file has them."""

    spec: ModelSpec
    index: int
    vectors: Mapping[str, Floats]

    def normed(self, norm: str, x_TD: Floats) -> Floats:
        """The inputs of a stage behind a norm."""
        return rms_norm(self.spec, x_TD, self.vectors[norm])

    def attend(self, qkv_LD: Floats) -> Floats:
        """[L, H*K]: attention over one window, which starts at position 0."""
        spec = self.spec
        q, k, v = np.split(qkv_LD, [spec.query_size, spec.query_size + spec.kv_size], axis=1)
        if spec.qk_norm:
            q = rms_norm(spec, q, self.vectors["q_norm"], spec.num_heads)
            k = rms_norm(spec, k, self.vectors["k_norm"], spec.num_kv_heads)
        rope = spec.layer_rope(self.index)
        frequencies = inverse_frequencies(rope, long=rope.is_long(len(q)))
        table = reference.rope_table(np.arange(len(q), dtype=np.int32), frequencies, rope.scale)
        q, k = reference.rope(q, table, spec.head_dim), reference.rope(k, table, spec.head_dim)
        return _causal_attention(spec, q, k, v, spec.layer_windows[self.index])

    def activated(self, gate_up_T2F: Floats) -> Floats:
        """[T, F]: the inputs of the last stage."""
        activated: Floats = reference.gated_activation(gate_up_T2F, self.spec.activation)
        return activated

    def added(self, x_TD: Floats, output_TD: Floats, post_norm: str) -> Floats:
        """The residual sum, behind the second norm of models that have one."""
        return x_TD + (self.normed(post_norm, output_TD) if self.spec.post_norms else output_TD)

    def bias(self, matrix: str) -> Floats | None:
        return self.vectors.get(f"{matrix}_bias")


def rms_norm(spec: ModelSpec, x_TD: Floats, weight: Floats, groups: int = 1) -> Floats:
    """Root-mean-square norm with a weight as the file has it."""
    offset = np.float32(spec.norm_weight_offset)
    normed: Floats = reference.rms_norm(x_TD, weight + offset, spec.norm_eps, groups)
    return normed


def _causal_attention(spec: ModelSpec, q: Floats, k: Floats, v: Floats, window: int | None) -> Floats:
    """softmax(softcap(q.k * scale)) . v, for a key/value head and a block of queries at a time, which looks only at
    the keys that one of its queries sees."""
    length, per_kv = len(q), spec.num_heads // spec.num_kv_heads
    q_GHLK = q.reshape(length, spec.num_kv_heads, per_kv, spec.head_dim).transpose(1, 2, 0, 3)
    q_GHLK = q_GHLK * np.float32(spec.attention_scale)
    k_GKL = k.reshape(length, spec.num_kv_heads, spec.head_dim).transpose(1, 2, 0)
    v_GLK = v.reshape(length, spec.num_kv_heads, spec.head_dim).transpose(1, 0, 2)
    out_LGHK = np.empty((length, spec.num_kv_heads, per_kv, spec.head_dim), np.float32)
    for start in range(0, length, QUERIES_AT_ONCE):
        queries = slice(start, min(start + QUERIES_AT_ONCE, length))
        keys = slice(0 if window is None else max(0, start - window + 1), queries.stop)
        unseen_LC = _unseen(queries, keys, window)
        for head in range(spec.num_kv_heads):
            scores_HLC = q_GHLK[head, :, queries] @ k_GKL[head, :, keys]
            if spec.attention_softcap is not None:
                scores_HLC = reference.softcap(scores_HLC, spec.attention_softcap)
            scores_HLC[:, unseen_LC] = -np.inf
            scores_HLC -= scores_HLC.max(axis=-1, keepdims=True)
            np.exp(scores_HLC, out=scores_HLC)
            sums_HL1 = scores_HLC.sum(axis=-1, keepdims=True)
            out_LGHK[queries, head] = (scores_HLC @ v_GLK[head, keys] / sums_HL1).transpose(1, 0, 2)
    return out_LGHK.reshape(length, -1)


def _unseen(queries: slice, keys: slice, window: int | None) -> NDArray[np.bool_]:
    """[queries, keys]: keys behind the query, or before its window."""
    distance = np.arange(queries.start, queries.stop)[:, None] - np.arange(keys.start, keys.stop)
    return distance < 0 if window is None else (distance < 0) | (distance >= window)
