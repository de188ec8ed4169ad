"""Paged attention with whole tensors, on any device: the definition, and what runs where no kernel is better.

It gathers each group's keys and values and holds its scores: correct for every cache type, mask and tree, and slower
than a kernel that reads the cache in place. Shape letters: N spans, Q rows of a span, C positions, H query heads, G
key/value heads, K head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.precision import Precision
from vivace.backends.cuda.step import DeviceStep, Group
from vivace.ops.program import Attention


def paged_attention(
    q_TD: Tensor, op: Attention, cache: CudaKVCache, step: DeviceStep, precision: Precision
) -> Tensor:
    """[T, H*K], wide."""
    out_TD = torch.empty(q_TD.shape, dtype=precision.wide, device=q_TD.device)
    for group in step.groups:
        q_NQHK = q_TD[group.rows_NQ].unflatten(-1, (op.num_heads, op.head_dim)).to(precision.wide)
        out_TD[group.rows_NQ] = _attend(q_NQHK, op, cache, group).flatten(-2)
    return out_TD


def _attend(q_NQHK: Tensor, op: Attention, cache: CudaKVCache, group: Group) -> Tensor:
    """[N, Q, H, K]."""
    dtype = q_NQHK.dtype
    positions_C = torch.arange(group.slots_NC.shape[1], device=q_NQHK.device)
    positions_NQ1 = group.positions_NQ[:, :, None]
    seen_NQC = positions_C <= positions_NQ1
    if op.window is not None:
        seen_NQC &= positions_C > positions_NQ1 - op.window
    keys = cache.keys(op.layer, group.slots_NC, dtype)
    if cache.has_recent_keys:
        scores = _scores_by_block(q_NQHK, op, cache, group, keys, positions_C)
    else:
        scores = _scores(q_NQHK, keys) * op.scale
    if op.softcap is not None:
        scores = op.softcap * torch.tanh(scores / op.softcap)
    scores = scores.masked_fill(~seen_NQC[:, None, None], -torch.inf)
    # What lies behind a context may be anything, NaN included, which a weight of 0 would let through.
    is_context_NC = positions_C <= group.positions_NQ[:, -1:]
    values = cache.values(op.layer, group.slots_NC, dtype).masked_fill(~is_context_NC[:, :, None, None], 0)
    return _mix(torch.softmax(scores, dim=-1), values)


def _scores(q_NQHK: Tensor, keys_NCGK: Tensor) -> Tensor:
    """q . k, [N, G, H / G, Q, C]."""
    spans, rows, _, dim = q_NQHK.shape
    num_groups = keys_NCGK.shape[2]
    q = q_NQHK.reshape(spans, rows, num_groups, -1, dim).permute(0, 2, 3, 1, 4)  # N, G, H / G, Q, K
    flat = q.reshape(spans, num_groups, -1, dim) @ keys_NCGK.permute(0, 2, 3, 1)
    return flat.reshape(spans, num_groups, -1, rows, keys_NCGK.shape[1])


def _mix(weights: Tensor, values_NCGK: Tensor) -> Tensor:
    """[N, Q, H, K] of weights [N, G, H / G, Q, C]."""
    spans, num_groups, heads, rows, positions = weights.shape
    flat = weights.reshape(spans, num_groups, heads * rows, positions) @ values_NCGK.permute(0, 2, 1, 3)
    mixed = flat.reshape(spans, num_groups, heads, rows, -1).permute(0, 3, 1, 2, 4)
    return mixed.reshape(spans, rows, num_groups * heads, -1)


def _scores_by_block(
    q_NQHK: Tensor, op: Attention, cache: CudaKVCache, group: Group, keys: Tensor, positions_C: Tensor
) -> Tensor:
    """Keys of each row's own block as they were written, those before it as levels (`vivace.ops.reference_kv`)."""
    size = cache.spec.block_size
    recent = cache.recent_keys(op.layer, group.slots_NC, q_NQHK.dtype)
    if group.path_starts_N is not None:
        is_path_NC = positions_C // size >= (group.path_starts_N // size)[:, None]
        rounded = _rounded(recent, cache)
        keys = torch.where(is_path_NC[:, :, None, None], rounded, keys)
    own_NQC = positions_C // size == (group.positions_NQ // size)[:, :, None]
    coded, written = _scores(q_NQHK, keys), _scores(q_NQHK, recent)
    return torch.where(own_NQC[:, None, None], written, coded) * op.scale


def _rounded(recent_NCGK: Tensor, cache: CudaKVCache) -> Tensor:
    """Blocks that a path fills are no blocks of the cache: what they would read back as. The last one, which may be
    short, is some row's own and is not read."""
    size, count = cache.spec.block_size, recent_NCGK.shape[1]
    whole = count // size * size
    blocks = recent_NCGK[:, :whole].unflatten(1, (-1, size))
    return torch.cat([cache.rounded_blocks(blocks).flatten(1, 2), recent_NCGK[:, whole:]], dim=1)
