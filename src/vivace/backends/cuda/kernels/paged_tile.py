"""Tiles of a paged cache inside a kernel: scores of a tile of queries with keys, and weights times values.

8-bit codes go into the products as they are (less 128: every integer up to 256 is a bfloat16) and their scales and
minima come in beside them, per token: q . (scale c + minimum) = scale (q . c) + minimum sum(q). That is exact where
decoded numbers would be rounded to 16 bits, and spares two operations an element. 4-bit codes have a scale for each
32 dimensions and are decoded; their columns come out in the order of `column_dims`, which queries and outputs share.

Shape letters: M rows (token and head), N positions, K head dimension, filled up to DIM, a power of 2.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def column_dims(KIND: tl.constexpr, DIM: tl.constexpr):
    """Which dimension each column of a tile holds."""
    columns = tl.arange(0, DIM)
    if KIND == "int4":
        byte = columns // 2
        return byte // 16 * 32 + columns % 2 * 16 + byte % 16
    return columns


@triton.jit
def slot_offsets(blocks_N, places_N, head, strides):
    """Where the vectors of these slots begin."""
    return blocks_N.to(tl.int64) * strides[0] + places_N * strides[1] + head * strides[2]


@triton.jit
def _float_tile(codes, offsets_N, is_there_N, HEAD_DIM: tl.constexpr, DIM: tl.constexpr):
    columns = tl.arange(0, DIM)
    mask = is_there_N[:, None] & (columns < HEAD_DIM)[None, :]
    return tl.load(codes + offsets_N[:, None] + columns[None, :], mask=mask, other=0)


@triton.jit
def _int4_tile(codes, ranges, code_offsets_N, range_offsets_N, is_there_N, HEAD_DIM: tl.constexpr, DIM: tl.constexpr):
    """Decoded, float32 [N, DIM], columns in the order of `column_dims`."""
    N: tl.constexpr = code_offsets_N.shape[0]
    byte, group = tl.arange(0, DIM // 2), tl.arange(0, DIM // 32)
    mask = is_there_N[:, None] & (byte < HEAD_DIM // 2)[None, :]
    packed = tl.load(codes + code_offsets_N[:, None] + byte[None, :], mask=mask, other=0)
    levels = tl.interleave(packed & 15, packed >> 4).to(tl.float32).reshape(N, DIM // 32, 32)
    mask = is_there_N[:, None] & (group < HEAD_DIM // 32)[None, :]
    pairs = ranges + range_offsets_N[:, None] + 2 * group[None, :]
    scale = tl.load(pairs, mask=mask, other=0).to(tl.float32)
    minimum = tl.load(pairs + 1, mask=mask, other=0).to(tl.float32)
    return (levels * scale[:, :, None] + minimum[:, :, None]).reshape(N, DIM)


@triton.jit
def _int8_ranges(ranges, offsets_N, is_there_N):
    """Scale, and what a code of 128 stands for."""
    scale_N = tl.load(ranges + offsets_N, mask=is_there_N, other=0).to(tl.float32)
    minimum_N = tl.load(ranges + offsets_N + 1, mask=is_there_N, other=0).to(tl.float32)
    return scale_N, minimum_N + 128 * scale_N


@triton.jit
def tile_scores(
    q_MK, sums_M, codes, ranges, code_offsets_N, range_offsets_N, is_there_N,
    KIND: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """q . k, float32 [M, N]. `sums_M`: of each row of q."""
    dtype = q_MK.dtype
    if KIND == "int4":
        tile = _int4_tile(codes, ranges, code_offsets_N, range_offsets_N, is_there_N, HEAD_DIM, DIM)
        return tl.dot(q_MK, tl.trans(tile.to(dtype)), input_precision="ieee")
    tile = _float_tile(codes, code_offsets_N, is_there_N, HEAD_DIM, DIM)
    if KIND == "float":
        return tl.dot(q_MK, tl.trans(tile.to(dtype)), input_precision="ieee")
    scale_N, middle_N = _int8_ranges(ranges, range_offsets_N, is_there_N)
    centred = (tile.to(tl.float32) - 128).to(dtype)  # columns behind HEAD_DIM meet zeros of q
    scores = tl.dot(q_MK, tl.trans(centred), input_precision="ieee")
    return scores * scale_N[None, :] + sums_M[:, None] * middle_N[None, :]


@triton.jit
def tile_mix(
    weights_MN, codes, ranges, code_offsets_N, range_offsets_N, is_there_N, dtype: tl.constexpr,
    KIND: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """weights . v, float32 [M, DIM], and what is to be added to all of a row, [M]: 0 but for int8."""
    if KIND == "int4":
        tile = _int4_tile(codes, ranges, code_offsets_N, range_offsets_N, is_there_N, HEAD_DIM, DIM)
        return tl.dot(weights_MN.to(dtype), tile.to(dtype), input_precision="ieee"), tl.sum(weights_MN * 0, 1)
    tile = _float_tile(codes, code_offsets_N, is_there_N, HEAD_DIM, DIM)
    if KIND == "float":
        return tl.dot(weights_MN.to(dtype), tile.to(dtype), input_precision="ieee"), tl.sum(weights_MN * 0, 1)
    scale_N, middle_N = _int8_ranges(ranges, range_offsets_N, is_there_N)
    centred = (tile.to(tl.float32) - 128).to(dtype)
    mixed = tl.dot((weights_MN * scale_N[None, :]).to(dtype), centred, input_precision="ieee")
    return mixed, tl.sum(weights_MN * middle_N[None, :], 1)
