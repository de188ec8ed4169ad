"""Adds the chunks of a split context in the order of positions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge_chunks(
    partial, statistics, out, query_starts, context_lens, sequences, first_rows, out_stride, window, num_chunks,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    CHUNK: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Program (tile, line): one row's head. `partial` [tiles, chunks, G, ROWS * HEADS, K] of weighted sums,
    `statistics` [.., 2] of the largest score, in base 2, and the sum of weights. Chunks that a row's positions do
    not reach were not written and are not read."""
    tile, line = tl.program_id(0), tl.program_id(1)
    head, index = line // (ROWS * HEADS), line % (ROWS * HEADS)
    sequence = tl.load(sequences + tile)
    row = tl.load(first_rows + tile) + index // HEADS
    stop_row = tl.load(query_starts + sequence + 1)
    if row >= stop_row:
        return
    position = tl.load(context_lens + sequence) - stop_row + row
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(0, position - window + 1) // CHUNK
    dims = tl.arange(0, DIM)
    mixed_K = tl.zeros([DIM], tl.float32)
    largest = -float("inf")
    total = 0.0
    for chunk in range(first, position // CHUNK + 1):
        place = (tile.to(tl.int64) * num_chunks + chunk) * (KV_HEADS * ROWS * HEADS) + line
        here_K = tl.load(partial + place * HEAD_DIM + dims, mask=dims < HEAD_DIM, other=0)
        here = tl.load(statistics + 2 * place)
        new_largest = tl.maximum(largest, here)
        decay, weight = tl.exp2(largest - new_largest), tl.exp2(here - new_largest)
        mixed_K = mixed_K * decay + here_K * weight
        total = total * decay + tl.load(statistics + 2 * place + 1) * weight
        largest = new_largest
    columns = (head * HEADS + index % HEADS) * HEAD_DIM + dims
    result_K = (mixed_K / total).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * out_stride + columns, result_K, mask=dims < HEAD_DIM)
