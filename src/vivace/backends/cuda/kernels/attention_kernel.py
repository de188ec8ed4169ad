"""The attention kernel: a tile of rows of one sequence, with all query heads of one KV head.

Positions that every row of the tile sees are gone through without masks; the tiles at the ends of what rows see, and
the paths of guesses, with masks. Scores are kept in base 2, with the scale of the scores in the same multiplication.

Shape letters: H query heads, G KV heads, K head dimension, filled up to DIM, M rows of a tile (token and head), N
positions of a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vivace.backends.cuda.kernels.paged_channels import channel_scores
from vivace.backends.cuda.kernels.paged_tile import column_dims, slot_offsets, tile_mix, tile_scores
from vivace.backends.cuda.kernels.succession import wait_for_predecessor

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["table_stride", "path_stride", "first_part", "window"])
def attend_tile(
    q, keys, key_ranges, recent, recent_rows, values, value_ranges, out, partial, statistics,
    query_starts, context_lens, tables, sequences, first_rows, part_starts, part_tiles, path_firsts, path_slots,
    q_stride, out_stride, table_stride, path_stride, key_strides, key_range_strides, recent_strides, value_strides,
    value_range_strides, scale, cap, window, first_part,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr, BY_CHANNEL: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_PATHS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Program (KV head, part from `first_part` on); PART = 0: (KV head, tile), over all positions. A context of one
    part goes to `out` at once, others to `partial` and `statistics`, from the launch's first part on."""
    wait_for_predecessor()
    head, tile = tl.program_id(0), tl.program_id(1)
    part = first_part + tile
    is_only = True
    begin, part_stop = 0, 0x7FFFFFFF
    if PART > 0:
        tile = tl.load(part_tiles + part)
        if tile < 0:
            return
        first_of_tile = tl.load(part_starts + tile)
        is_only = tl.load(part_starts + tile + 1) - first_of_tile == 1
        begin = (part - first_of_tile) * PART
        part_stop = begin + PART
    sequence, first_row = tl.load(sequences + tile), tl.load(first_rows + tile)
    stop_row = tl.load(query_starts + sequence + 1)
    to_position = tl.load(context_lens + sequence) - stop_row  # of a row
    stop = tl.minimum(to_position + tl.minimum(first_row + ROWS, stop_row), part_stop)
    if HAS_WINDOW:
        begin = tl.maximum(begin, (to_position + first_row - window + 1) // N * N)
    if begin >= stop:
        return
    path_first, path = stop, path_slots
    if HAS_PATHS:
        path_first = tl.load(path_firsts + first_row)
        path = path_slots + first_row.to(tl.int64) * path_stride
    _attend_rows(
        q, keys, key_ranges, recent, recent_rows, values, value_ranges, out, partial, statistics, q_stride,
        out_stride, tables + sequence.to(tl.int64) * table_stride, path_first, path, key_strides, key_range_strides,
        recent_strides, value_strides, value_range_strides, scale, cap, window, head, first_row, stop_row,
        to_position, begin, stop, is_only, part - first_part,
        HEADS, HEAD_DIM, DIM, BLOCK_SIZE, ROWS, M, N, KIND, BY_CHANNEL, HAS_WINDOW, HAS_CAP, HAS_PATHS,
    )  # fmt: skip


@triton.jit
def _attend_rows(
    q, keys, key_ranges, recent, recent_rows, values, value_ranges, out, partial, statistics, q_stride, out_stride,
    table, path_first, path, key_strides, key_range_strides, recent_strides, value_strides, value_range_strides,
    scale, cap, window, head, first_row, stop_row, to_position, begin, stop, is_only, line,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr, BY_CHANNEL: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_PATHS: tl.constexpr,
):  # fmt: skip
    """Rows from `first_row` on over positions begin .. stop; a row's position is `to_position` ahead of it."""
    index_M = tl.arange(0, M)
    row_M = first_row + index_M // HEADS
    is_row_M = (index_M < ROWS * HEADS) & (row_M < stop_row)
    dims = column_dims(KIND, DIM)
    columns_M = (head * HEADS + index_M % HEADS) * HEAD_DIM
    is_there = is_row_M[:, None] & (dims < HEAD_DIM)[None, :]
    q_MK = tl.load(q + (row_M.to(tl.int64) * q_stride + columns_M)[:, None] + dims[None, :], mask=is_there, other=0)
    position_M = to_position + row_M
    masked_from = _masked_from(
        begin, stop, to_position + first_row, path_first, BLOCK_SIZE, N, BY_CHANNEL, HAS_WINDOW, HAS_PATHS
    )
    sums_M = tl.sum(q_MK.to(tl.float32), 1)
    mixed_MK = tl.zeros([M, DIM], tl.float32)
    shift_M, total_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    largest_M = tl.full([M], -float("inf"), tl.float32)
    if not HAS_WINDOW:
        mixed_MK, shift_M, total_M, largest_M = _attend(
            mixed_MK, shift_M, total_M, largest_M, q_MK, sums_M, position_M, begin, masked_from, path_first, path,
            head, keys, key_ranges, recent, recent_rows, values, value_ranges, table, key_strides, key_range_strides,
            recent_strides, value_strides, value_range_strides, scale, cap, window,
            HEAD_DIM, DIM, BLOCK_SIZE, N, KIND, BY_CHANNEL, False, HAS_CAP, False, False,
        )  # fmt: skip
    mixed_MK, shift_M, total_M, largest_M = _attend(
        mixed_MK, shift_M, total_M, largest_M, q_MK, sums_M, position_M, masked_from, stop, path_first, path,
        head, keys, key_ranges, recent, recent_rows, values, value_ranges, table, key_strides, key_range_strides,
        recent_strides, value_strides, value_range_strides, scale, cap, window,
        HEAD_DIM, DIM, BLOCK_SIZE, N, KIND, BY_CHANNEL, HAS_WINDOW, HAS_CAP, HAS_PATHS, True,
    )  # fmt: skip
    mixed_MK += shift_M[:, None]
    if is_only:
        place = out + (row_M.to(tl.int64) * out_stride + columns_M)[:, None] + dims[None, :]
        total_M = tl.where(is_row_M, total_M, 1.0)  # a line that is no row may have seen nothing
        tl.store(place, (mixed_MK / total_M[:, None]).to(out.dtype.element_ty), mask=is_there)
    else:
        line_M = (line.to(tl.int64) * tl.num_programs(0) + head) * (ROWS * HEADS) + index_M
        tl.store(partial + line_M[:, None] * HEAD_DIM + dims[None, :], mixed_MK, mask=is_there)
        tl.store(statistics + 2 * line_M, largest_M, mask=is_row_M)
        tl.store(statistics + 2 * line_M + 1, total_M, mask=is_row_M)


@triton.jit
def _masked_from(
    begin, stop, first_position, path_first,
    BLOCK_SIZE: tl.constexpr, N: tl.constexpr, BY_CHANNEL: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_PATHS: tl.constexpr,
):  # fmt: skip
    """The first position, whole tiles behind `begin`, from which some row of the tile does not see everything."""
    if HAS_WINDOW:
        return begin
    masked_from = tl.minimum(stop, first_position + 1)
    if BY_CHANNEL:
        masked_from = tl.minimum(stop, first_position // BLOCK_SIZE * BLOCK_SIZE)
    if HAS_PATHS:
        masked_from = tl.minimum(masked_from, path_first)
    return begin + tl.maximum(masked_from - begin, 0) // N * N


@triton.jit
def _attend(
    mixed_MK, shift_M, total_M, largest_M, q_MK, sums_M, position_M, first, stop, path_first, path,
    head, keys, key_ranges, recent, recent_rows, values, value_ranges, table, key_strides, key_range_strides,
    recent_strides, value_strides, value_range_strides, scale, cap, window,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr,
    BY_CHANNEL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_PATHS: tl.constexpr,
    IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Goes on over positions first .. stop: weighted sums [M, DIM], what is to be added to all of a row, the sum of
    weights, the largest score in base 2. The largest is found before the scale, of which the sum of a weight's
    exponent then has it in one operation."""
    factor = LOG2_E if HAS_CAP else scale * LOG2_E
    for begin in range(first, stop, N):
        position_N = begin + tl.arange(0, N)
        is_there_N = position_N < stop
        block_N, place_N = _places(
            table, begin, position_N, is_there_N, path_first, path, BLOCK_SIZE, N, HAS_PATHS, IS_MASKED
        )
        if BY_CHANNEL:
            scores = channel_scores(
                q_MK, column_dims(KIND, DIM), keys, key_ranges, recent, recent_rows, key_strides, key_range_strides,
                recent_strides, block_N, place_N, head, position_M, position_N, is_there_N,
                IS_MASKED, HEAD_DIM, BLOCK_SIZE,
            )  # fmt: skip
        else:
            scores = tile_scores(
                q_MK, sums_M, keys, key_ranges, slot_offsets(block_N, place_N, head, key_strides),
                slot_offsets(block_N, place_N, head, key_range_strides), is_there_N, IS_MASKED, KIND, HEAD_DIM, DIM,
            )  # fmt: skip
        if HAS_CAP:
            scores = cap * (1 - 2 / (tl.exp2(scores * (2 * LOG2_E * scale / cap)) + 1))
        if IS_MASKED:
            is_seen = (position_N[None, :] <= position_M[:, None]) & is_there_N[None, :]
            if HAS_WINDOW:
                is_seen = is_seen & (position_N[None, :] > position_M[:, None] - window)
            scores = tl.where(is_seen, scores, -float("inf"))
        new_largest_M = tl.maximum(largest_M, tl.max(scores, 1) * factor)
        subtracted_M = new_largest_M
        if IS_MASKED:
            subtracted_M = tl.where(new_largest_M == -float("inf"), 0.0, new_largest_M)
        weights = tl.exp2(scores * factor - subtracted_M[:, None])
        decay_M = tl.exp2(largest_M - subtracted_M)
        total_M = total_M * decay_M + tl.sum(weights, 1)
        mixed_MK, shift_M = tile_mix(
            mixed_MK * decay_M[:, None], shift_M * decay_M, weights, values, value_ranges,
            slot_offsets(block_N, place_N, head, value_strides),
            slot_offsets(block_N, place_N, head, value_range_strides), is_there_N, q_MK.dtype,
            IS_MASKED, KIND, HEAD_DIM, DIM,
        )  # fmt: skip
        largest_M = new_largest_M
    return mixed_MK, shift_M, total_M, largest_M


@triton.jit
def _places(
    table, begin, position_N, is_there_N, path_first, path,
    BLOCK_SIZE: tl.constexpr, N: tl.constexpr, HAS_PATHS: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Blocks of these positions and the places in them: by the block table, or by the path of a guess. Tiles begin at
    multiples of N: where blocks do too, places are the same in every tile, and what follows from them leaves the
    loop."""
    if N % BLOCK_SIZE == 0:
        index_N = tl.arange(0, N)
        entries, place_N = table + begin // BLOCK_SIZE + index_N // BLOCK_SIZE, index_N % BLOCK_SIZE
    else:
        entries, place_N = table + position_N // BLOCK_SIZE, position_N % BLOCK_SIZE
    if not IS_MASKED:
        return tl.load(entries), place_N
    if not HAS_PATHS:
        return tl.load(entries, mask=is_there_N, other=0), place_N
    is_path_N = is_there_N & (position_N >= path_first)
    slot_N = tl.load(path + position_N - path_first, mask=is_path_N, other=0)
    block_N = tl.load(entries, mask=is_there_N & ~is_path_N, other=0)
    return tl.where(is_path_N, slot_N // BLOCK_SIZE, block_N), tl.where(is_path_N, slot_N % BLOCK_SIZE, place_N)
