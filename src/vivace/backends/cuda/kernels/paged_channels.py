"""Keys coded by channel inside a kernel: levels of whole blocks, and 16-bit keys of the blocks in progress.

A query reads the keys of its own block as they were written and those before it as levels
(`vivace.ops.reference_kv`). A byte holds places i and i + S / 2 of a dimension, so a tile loads each byte twice, the
second time from the first-level cache. Shape letters: M rows (token and head), N positions, S places of a block.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def channel_scores(
    q_MK, dims, codes, ranges, recent, recent_rows, code_strides, range_strides, recent_strides,
    block_N, place_N, head, position_M, position_N, is_there_N,
    IS_MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """q . k, float32 [M, N]. `dims`: which dimension each column of q holds. Tiles that are not masked lie before
    every row's own block."""
    HALF: tl.constexpr = BLOCK_SIZE // 2
    mask = (dims < HEAD_DIM)[None, :]
    if IS_MASKED:
        mask = mask & is_there_N[:, None]
    offsets_N = block_N.to(tl.int64) * code_strides[0] + head * code_strides[1] + place_N % HALF
    byte = tl.load(codes + offsets_N[:, None] + dims[None, :] * code_strides[2], mask=mask, other=0)
    levels = ((byte >> (place_N // HALF * 4).to(tl.uint8)[:, None]) & 15).to(tl.float32)
    offsets_N = block_N.to(tl.int64) * range_strides[0] + head * range_strides[1]
    pairs = ranges + offsets_N[:, None] + dims[None, :] * range_strides[2]
    scale = tl.load(pairs, mask=mask, other=0).to(tl.float32)
    minimum = tl.load(pairs + 1, mask=mask, other=0).to(tl.float32)
    tile = (levels * scale + minimum).to(q_MK.dtype)
    scores = tl.dot(q_MK, tl.trans(tile), input_precision="ieee")
    if not IS_MASKED:
        return scores
    row_N = tl.load(recent_rows + block_N, mask=is_there_N, other=0)
    offsets_N = row_N * recent_strides[0] + place_N * recent_strides[1] + head * recent_strides[2]
    written = tl.load(recent + offsets_N[:, None] + dims[None, :], mask=mask, other=0).to(q_MK.dtype)
    is_own = position_M[:, None] // BLOCK_SIZE == position_N[None, :] // BLOCK_SIZE
    return tl.where(is_own, tl.dot(q_MK, tl.trans(written), input_precision="ieee"), scores)
