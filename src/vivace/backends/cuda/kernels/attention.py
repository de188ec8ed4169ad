"""Paged attention over a ragged batch: FlashAttention (Dao et al., 2022) that reads a cache in pages in place.

A program takes a tile of rows of one sequence with all query heads of one KV head, so a position's key and value are
read once for the whole group. Sequences of few rows (decoding, guesses) have their contexts split into parts of PART
positions, one program a part (Flash-Decoding; Dao et al., 2023), which `attention_merge` adds; others run over their
whole contexts. Parts and tiles of positions begin at fixed positions, so a row's sum depends on its sequence alone,
not on the batch. (A row that comes with a prompt and the same row decoded round differently.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from vivace.backends.cuda.kernels.attention_kernel import attend_tile
from vivace.backends.cuda.kernels.attention_merge import TOGETHER, merge_parts
from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.attention_tiles import LEAST_SHARED_BYTES, padded_dim, tile_size
from vivace.backends.cuda.kernels.paged_plane import PagedPlane
from vivace.backends.cuda.kernels.ragged_rows import PART, RaggedRows, SplitTiles, Tiles
from vivace.backends.cuda.kernels.succession import launch_options

# Of the sums of parts in float32: at 32 heads of 128 dimensions 4000 parts, a million positions, in a launch. One
# sequence takes more where its rows are many and its context is long.
WORKSPACE_BYTES = 64 << 20
NARROW_DEVICES: set[torch.device] = set()  # on which the largest tiles did not fit, whatever their size promised


@dataclass(frozen=True, slots=True)
class _Run:
    """What one launch has to do: `num_programs` tiles, or parts of tiles from `first_part` on."""

    tiles: Tiles
    part: int
    num_programs: int
    first_part: int
    partial: Tensor
    statistics: Tensor


def paged_attention(
    q_TD: Tensor, keys: PagedPlane, values: PagedPlane, rows: RaggedRows, shape: AttentionShape
) -> Tensor:
    """[T, H*K] in q's type, of q_TD [T, H*K] (unit stride along a row): each token over its sequence's positions up
    to its own. Scores and sums are float32; weights and decoded numbers enter products in q's type. Rows of
    `rows.prompts` stay empty: another implementation fills them in."""
    out_TD = torch.empty((len(q_TD), shape.num_heads * shape.head_dim), dtype=q_TD.dtype, device=q_TD.device)
    for tiles in rows.split:
        _attend_split(q_TD, keys, values, rows, tiles, shape, out_TD)
    if len(rows.whole):
        run = _Run(rows.whole, 0, len(rows.whole), 0, out_TD, out_TD)
        _launch(q_TD, keys, values, rows, run, shape, out_TD)
    return out_TD


def _attend_split(
    q_TD: Tensor,
    keys: PagedPlane,
    values: PagedPlane,
    rows: RaggedRows,
    tiles: SplitTiles,
    shape: AttentionShape,
    out_TD: Tensor,
) -> None:
    lines = tiles.rows_per_tile * shape.num_heads  # of all KV heads
    for first, stop in tiles.launches(max(1, WORKSPACE_BYTES // (lines * (shape.head_dim + 2) * 4))):
        first_part = int(tiles.starts[first])
        # A graph's last launch takes the parts along that fill it up, and are nobody's.
        count = (int(tiles.starts[stop]) if stop < len(tiles) else len(tiles.tiles_P)) - first_part
        size = (count if count > stop - first else 0, lines)  # contexts of one part need no sums
        partial = torch.empty((*size, shape.head_dim), dtype=torch.float32, device=q_TD.device)
        statistics = torch.empty((*size, 2), dtype=torch.float32, device=q_TD.device)
        _launch(q_TD, keys, values, rows, _Run(tiles, PART, count, first_part, partial, statistics), shape, out_TD)
        if count > stop - first:
            _merge(rows, tiles, (first, stop), partial, statistics, shape, out_TD)


def _merge(
    rows: RaggedRows,
    tiles: SplitTiles,
    run: tuple[int, int],
    partial: Tensor,
    statistics: Tensor,
    shape: AttentionShape,
    out_TD: Tensor,
) -> None:
    first, stop = run
    merge_parts[(partial.shape[1], stop - first)](
        partial, statistics, out_TD, rows.query_starts_B1, rows.context_lens_B,
        tiles.sequences_N, tiles.first_rows_N, tiles.starts_N1,
        out_TD.stride(0), shape.window or 0, first, int(tiles.starts[first]),
        HEADS=shape.num_heads // shape.num_kv_heads, KV_HEADS=shape.num_kv_heads, ROWS=tiles.rows_per_tile,
        HEAD_DIM=shape.head_dim, DIM=padded_dim(shape.head_dim), PART=PART, TOGETHER=TOGETHER,
        HAS_WINDOW=shape.window is not None, num_warps=8, **launch_options(out_TD.device),
    )  # fmt: skip


def _launch(
    q_TD: Tensor,
    keys: PagedPlane,
    values: PagedPlane,
    rows: RaggedRows,
    run: _Run,
    shape: AttentionShape,
    out_TD: Tensor,
) -> None:
    """With tiles that need all of a large shared memory, or smaller ones where this compiler wants more for them."""
    try:
        _launch_tiles(q_TD, keys, values, rows, run, shape, out_TD, shared_bytes_of(q_TD.device))
    except OutOfResources:
        NARROW_DEVICES.add(q_TD.device)
        _launch_tiles(q_TD, keys, values, rows, run, shape, out_TD, LEAST_SHARED_BYTES)


def _launch_tiles(
    q_TD: Tensor,
    keys: PagedPlane,
    values: PagedPlane,
    rows: RaggedRows,
    run: _Run,
    shape: AttentionShape,
    out_TD: Tensor,
    shared_bytes: int,
) -> None:
    tiles = run.tiles
    starts, tiles_P = (
        (tiles.starts_N1, tiles.tiles_P) if isinstance(tiles, SplitTiles) else (rows.query_starts_B1,) * 2
    )
    paths = rows.paths if tiles.rows_per_tile == 1 and run.part else None
    firsts, slots = (rows.query_starts_B1,) * 2 if paths is None else (paths.firsts_T, paths.slots_TW)
    attend_tile[(shape.num_kv_heads, run.num_programs)](
        q_TD, keys.codes, keys.ranges_or_codes, *recent_of(keys), values.codes, values.ranges_or_codes,
        out_TD, run.partial, run.statistics,
        rows.query_starts_B1, rows.context_lens_B, rows.block_tables_BX, tiles.sequences_N, tiles.first_rows_N,
        starts, tiles_P, firsts, slots,
        q_TD.stride(0), out_TD.stride(0), rows.block_tables_BX.stride(0), slots.stride(0),
        keys.code_strides, keys.range_strides, keys.recent_strides, values.code_strides, values.range_strides,
        shape.scale, shape.softcap or 1.0, shape.window or 0, run.first_part,
        **constants(
            shape, keys, values, tiles.rows_per_tile, run.part, q_TD.dtype,
            has_paths=paths is not None, shared_bytes=shared_bytes,
        ),
        **launch_options(q_TD.device),
    )  # fmt: skip


def shared_bytes_of(device: torch.device) -> int:
    """That a block may have."""
    if device.type != "cuda" or device in NARROW_DEVICES:
        return LEAST_SHARED_BYTES
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", LEAST_SHARED_BYTES))


def recent_of(keys: PagedPlane) -> tuple[Tensor, Tensor]:
    """A kernel takes pointers where it reads none."""
    return (keys.codes, keys.codes) if keys.recent is None else (keys.recent.keys, keys.recent.row_of_block)


def constants(
    shape: AttentionShape,
    keys: PagedPlane,
    values: PagedPlane,
    rows_per_tile: int,
    part: int,
    dtype: torch.dtype,
    *,
    has_paths: bool = False,
    shared_bytes: int = LEAST_SHARED_BYTES,
) -> dict[str, object]:
    """What `attend_tile` is compiled for. `shared_bytes`: see `tile_size`."""
    heads = shape.num_heads // shape.num_kv_heads
    size = tile_size(rows_per_tile * heads, shape.head_dim, values.kind, dtype, shared_bytes)
    return {
        "HEADS": heads,
        "HEAD_DIM": shape.head_dim,
        "DIM": padded_dim(shape.head_dim),
        "BLOCK_SIZE": values.block_size,
        "ROWS": rows_per_tile,
        "M": size.M,
        "N": size.N,
        "KIND": values.kind,
        "BY_CHANNEL": keys.kind == "channel",
        "HAS_WINDOW": shape.window is not None,
        "HAS_CAP": shape.softcap is not None,
        "HAS_PATHS": has_paths,
        "PART": part,
        "num_warps": size.num_warps,
        "num_stages": size.num_stages,
    }
