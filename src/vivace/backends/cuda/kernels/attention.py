"""Paged attention over a ragged batch: FlashAttention (Dao et al., 2022) that reads a cache in pages in place.

A program takes a tile of rows of one sequence with all query heads of one KV head, so a position's key and value are
read once for the whole group. Sequences of few rows (decoding, guesses) have their contexts split into chunks of
CHUNK positions, one program a chunk (Flash-Decoding; Dao et al., 2023), which `attention_merge` adds in their order;
others run over their whole contexts. Chunks and tiles of positions begin at fixed positions, so a row's sum depends
on its sequence alone, not on the batch. (A row that comes with a prompt and the same row decoded round differently.)

Shape letters: T rows, H query heads, G KV heads, K head dimension, M rows of a tile (token and head), N positions of
a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.attention_merge import merge_chunks
from vivace.backends.cuda.kernels.paged_plane import PagedPlane
from vivace.backends.cuda.kernels.paged_tile import column_dims, slot_offsets, tile_mix, tile_scores
from vivace.backends.cuda.kernels.ragged_rows import RaggedRows, Tiles

CHUNK = 256  # positions: 8 KV heads at 8192 positions make 256 programs, two a core of an H100
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Of one layer. `window`: positions seen, None for all; `softcap`: cap * tanh(score / cap)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None


def paged_attention(
    q_TD: Tensor, keys: PagedPlane, values: PagedPlane, rows: RaggedRows, shape: AttentionShape
) -> Tensor:
    """[T, H*K] in q's type, of q_TD [T, H*K] (unit stride along a row): each token over its sequence's positions up
    to its own. Scores and sums are float32; weights and decoded numbers enter products in q's type."""
    out_TD = torch.empty((len(q_TD), shape.num_heads * shape.head_dim), dtype=q_TD.dtype, device=q_TD.device)
    if len(rows.split):
        _attend_split(q_TD, keys, values, rows, shape, out_TD)
    if len(rows.whole):
        _launch(q_TD, keys, values, rows, rows.whole, shape, out_TD, out_TD, out_TD, 0, 1)
    return out_TD


def whole_tile(head_dim: int) -> int:
    """Rows times heads of a tile over a whole context: what keeps its float32 sums within the registers."""
    return 128 if head_dim <= 128 else 64


def _attend_split(
    q_TD: Tensor, keys: PagedPlane, values: PagedPlane, rows: RaggedRows, shape: AttentionShape, out_TD: Tensor
) -> None:
    num_chunks = triton.cdiv(rows.max_context, CHUNK)
    per_tile = rows.split.rows_per_tile * shape.num_heads  # of all KV heads
    size = (len(rows.split), num_chunks, per_tile)
    partial = torch.empty((*size, shape.head_dim), dtype=torch.float32, device=q_TD.device)
    statistics = torch.empty((*size, 2), dtype=torch.float32, device=q_TD.device)
    _launch(q_TD, keys, values, rows, rows.split, shape, out_TD, partial, statistics, CHUNK, num_chunks)
    merge_chunks[(len(rows.split), per_tile)](
        partial, statistics, out_TD, rows.query_starts_B1, rows.context_lens_B,
        rows.split.sequences_N, rows.split.first_rows_N, out_TD.stride(0), shape.window or 0, num_chunks,
        HEADS=shape.num_heads // shape.num_kv_heads, KV_HEADS=shape.num_kv_heads, ROWS=rows.split.rows_per_tile,
        HEAD_DIM=shape.head_dim, DIM=triton.next_power_of_2(shape.head_dim), CHUNK=CHUNK,
        HAS_WINDOW=shape.window is not None, num_warps=1,
    )  # fmt: skip


def _launch(
    q_TD: Tensor, keys: PagedPlane, values: PagedPlane, rows: RaggedRows, tiles: Tiles, shape: AttentionShape,
    out_TD: Tensor, partial: Tensor, statistics: Tensor, chunk: int, num_chunks: int,
) -> None:  # fmt: skip
    grid = (len(tiles), shape.num_kv_heads, num_chunks)
    attend_tile[grid](
        q_TD, keys.codes, keys.ranges_or_codes, values.codes, values.ranges_or_codes, out_TD, partial, statistics,
        rows.query_starts_B1, rows.context_lens_B, rows.block_tables_BX, tiles.sequences_N, tiles.first_rows_N,
        q_TD.stride(0), out_TD.stride(0), rows.block_tables_BX.stride(0),
        keys.code_strides, keys.range_strides, values.code_strides, values.range_strides,
        shape.scale, shape.softcap or 1.0, shape.window or 0, num_chunks,
        **constants(shape, keys, tiles.rows_per_tile, chunk, q_TD.dtype),
    )  # fmt: skip


def constants(
    shape: AttentionShape, keys: PagedPlane, rows_per_tile: int, chunk: int, dtype: torch.dtype
) -> dict[str, object]:
    """What `attend_tile` is compiled for."""
    heads = shape.num_heads // shape.num_kv_heads
    tile = max(16, triton.next_power_of_2(rows_per_tile * heads))
    dim = max(32, triton.next_power_of_2(shape.head_dim))
    is_wide = dtype == torch.float32
    return {
        "HEADS": heads,
        "HEAD_DIM": shape.head_dim,
        "DIM": dim,
        "BLOCK_SIZE": keys.block_size,
        "ROWS": rows_per_tile,
        "M": tile,
        "N": (16 if dim > 128 else 32) if is_wide else 32 if dim > 128 else 64,
        "KIND": keys.kind,
        "HAS_WINDOW": shape.window is not None,
        "HAS_CAP": shape.softcap is not None,
        "CHUNK": chunk,
        "num_warps": 8 if tile >= 128 else 4,
        # Of float32, two stages of 128 dimensions take 113 KiB of shared memory; compute capability 8.9 has 99.
        "num_stages": 1 if is_wide and dim > 64 else 2,
    }


@triton.jit
def attend_tile(
    q, keys, key_ranges, values, value_ranges, out, partial, statistics,
    query_starts, context_lens, tables, sequences, first_rows,
    q_stride, out_stride, table_stride, key_strides, key_range_strides, value_strides, value_range_strides,
    scale, cap, window, num_chunks,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Program (tile, KV head, chunk). CHUNK = 0: over all positions, into `out`."""
    tile, head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence, first_row = tl.load(sequences + tile), tl.load(first_rows + tile)
    stop_row = tl.load(query_starts + sequence + 1)
    to_position = tl.load(context_lens + sequence) - stop_row  # of a row
    index_M = tl.arange(0, M)
    row_M = first_row + index_M // HEADS
    is_row_M = (index_M < ROWS * HEADS) & (row_M < stop_row)
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(0, to_position + first_row - window + 1)
    stop = to_position + tl.minimum(first_row + ROWS, stop_row)
    if CHUNK > 0:
        first, stop = tl.maximum(first, chunk * CHUNK), tl.minimum(stop, chunk * CHUNK + CHUNK)
        if first >= stop:
            return
    dims = column_dims(KIND, DIM)
    columns_M = (head * HEADS + index_M % HEADS) * HEAD_DIM
    is_there = is_row_M[:, None] & (dims < HEAD_DIM)[None, :]
    q_MK = tl.load(q + (row_M.to(tl.int64) * q_stride + columns_M)[:, None] + dims[None, :], mask=is_there, other=0)
    mixed_MK, largest_M, total_M = _attend(
        q_MK, to_position + row_M, first // N * N, stop, head, keys, key_ranges, values, value_ranges,
        tables + sequence.to(tl.int64) * table_stride,
        key_strides, key_range_strides, value_strides, value_range_strides, scale, cap, window,
        HEAD_DIM, DIM, BLOCK_SIZE, M, N, KIND, HAS_WINDOW, HAS_CAP,
    )  # fmt: skip
    if CHUNK > 0:
        line_M = ((tile.to(tl.int64) * num_chunks + chunk) * tl.num_programs(1) + head) * (ROWS * HEADS) + index_M
        tl.store(partial + line_M[:, None] * HEAD_DIM + dims[None, :], mixed_MK, mask=is_there)
        tl.store(statistics + 2 * line_M, largest_M, mask=is_row_M)
        tl.store(statistics + 2 * line_M + 1, total_M, mask=is_row_M)
    else:
        place = out + (row_M.to(tl.int64) * out_stride + columns_M)[:, None] + dims[None, :]
        total_M = tl.where(is_row_M, total_M, 1.0)  # a line that is no row may have seen nothing
        tl.store(place, (mixed_MK / total_M[:, None]).to(out.dtype.element_ty), mask=is_there)


@triton.jit
def _attend(
    q_MK, position_M, first, stop, head, keys, key_ranges, values, value_ranges, table,
    key_strides, key_range_strides, value_strides, value_range_strides, scale, cap, window,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    KIND: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr,
):  # fmt: skip
    """Over positions first .. stop: weighted sums [M, DIM], the largest score in base 2, the sum of weights."""
    sums_M = tl.sum(q_MK.to(tl.float32), 1)
    mixed_MK = tl.zeros([M, DIM], tl.float32)
    shift_M, total_M = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    largest_M = tl.full([M], -float("inf"), tl.float32)
    for begin in range(first, stop, N):
        position_N = begin + tl.arange(0, N)
        is_there_N = position_N < stop
        block_N = tl.load(table + position_N // BLOCK_SIZE, mask=is_there_N, other=0)
        place_N = position_N % BLOCK_SIZE
        scores = tile_scores(
            q_MK, sums_M, keys, key_ranges, slot_offsets(block_N, place_N, head, key_strides),
            slot_offsets(block_N, place_N, head, key_range_strides), is_there_N, KIND, HEAD_DIM, DIM,
        ) * scale  # fmt: skip
        if HAS_CAP:
            scores = cap * (1 - 2 / (tl.exp2(scores * (2 * LOG2_E / cap)) + 1))
        is_seen = (position_N[None, :] <= position_M[:, None]) & is_there_N[None, :]
        if HAS_WINDOW:
            is_seen = is_seen & (position_N[None, :] > position_M[:, None] - window)
        scores = tl.where(is_seen, scores * LOG2_E, -float("inf"))
        new_largest_M = tl.maximum(largest_M, tl.max(scores, 1))
        subtracted_M = tl.where(new_largest_M == -float("inf"), 0.0, new_largest_M)
        weights = tl.exp2(scores - subtracted_M[:, None])
        decay_M = tl.exp2(largest_M - subtracted_M)
        mixed, shift = tile_mix(
            weights, values, value_ranges, slot_offsets(block_N, place_N, head, value_strides),
            slot_offsets(block_N, place_N, head, value_range_strides), is_there_N, q_MK.dtype, KIND, HEAD_DIM, DIM,
        )  # fmt: skip
        mixed_MK = mixed_MK * decay_M[:, None] + mixed
        shift_M = shift_M * decay_M + shift
        total_M = total_M * decay_M + tl.sum(weights, 1)
        largest_M = new_largest_M
    return mixed_MK + shift_M[:, None], largest_M, total_M
