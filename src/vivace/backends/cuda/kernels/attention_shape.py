"""What distinguishes the attention of one layer from another's."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.ops.program import Attention


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Of one layer. `window`: positions seen, None for all; `softcap`: cap * tanh(score / cap)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None


def shape_of(op: Attention) -> AttentionShape:
    return AttentionShape(op.num_heads, op.num_kv_heads, op.head_dim, op.scale, op.window, op.softcap)
