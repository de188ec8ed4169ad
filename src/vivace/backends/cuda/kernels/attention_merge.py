"""Adds the parts of split contexts: all of a row's head at once, TOGETHER parts at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from vivace.backends.cuda.kernels.succession import wait_for_predecessor

# Parts: 32 KiB at 128 dimensions, of which each of 256 threads loads 128 bytes. Contexts of up to 16,384 positions
# then wait for memory twice; with 16 at once they did eight times, 2.7 us of the 25 that such a one takes on an H100.
TOGETHER = 64


@triton.jit(do_not_specialize=["first_tile", "first_part", "window"])
def merge_parts(
    partial, statistics, out, query_starts, context_lens, sequences, first_rows, part_starts,
    out_stride, window, first_tile, first_part,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    PART: tl.constexpr, TOGETHER: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Program (line, tile from `first_tile` on): one row's head. `partial` [parts, G, ROWS * HEADS, K] of weighted
    sums, `statistics` [.., 2] of the largest score, in base 2, and the sum of weights. Parts that a row's positions
    do not reach were not written and are not read; a context of one part is in `out` already."""
    wait_for_predecessor()
    line, tile = tl.program_id(0), first_tile + tl.program_id(1)
    first_of_tile = tl.load(part_starts + tile)
    if tl.load(part_starts + tile + 1) - first_of_tile == 1:
        return
    head, index = line // (ROWS * HEADS), line % (ROWS * HEADS)
    sequence = tl.load(sequences + tile)
    row = tl.load(first_rows + tile) + index // HEADS
    stop_row = tl.load(query_starts + sequence + 1)
    if row >= stop_row:
        return
    position = tl.load(context_lens + sequence) - stop_row + row
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(0, position - window + 1) // PART
    stop = position // PART + 1
    lines: tl.constexpr = KV_HEADS * ROWS * HEADS
    base = (first_of_tile - first_part).to(tl.int64) * lines + line
    dims, part_P = tl.arange(0, DIM), tl.arange(0, TOGETHER)
    largest_P = tl.full([TOGETHER], -float("inf"), tl.float32)
    for begin in range(first, stop, TOGETHER):
        place_P = base + (begin + part_P) * lines
        here_P = tl.load(statistics + 2 * place_P, mask=begin + part_P < stop, other=-float("inf"))
        largest_P = tl.maximum(largest_P, here_P)
    largest = tl.max(largest_P, 0)
    mixed_K, total_P = tl.zeros([DIM], tl.float32), tl.zeros([TOGETHER], tl.float32)
    for begin in range(first, stop, TOGETHER):
        place_P = base + (begin + part_P) * lines
        is_there_P = begin + part_P < stop
        mask = is_there_P[:, None] & (dims < HEAD_DIM)[None, :]
        here_PK = tl.load(partial + place_P[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0)
        weight_P = tl.exp2(tl.load(statistics + 2 * place_P, mask=is_there_P, other=-float("inf")) - largest)
        mixed_K += tl.sum(here_PK * weight_P[:, None], 0)
        total_P += tl.load(statistics + 2 * place_P + 1, mask=is_there_P, other=0) * weight_P
    columns = (head * HEADS + index % HEADS) * HEAD_DIM + dims
    result_K = (mixed_K / tl.sum(total_P, 0)).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * out_stride + columns, result_K, mask=dims < HEAD_DIM)
