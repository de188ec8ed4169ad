"""Tiles of a paged cache inside a kernel: scores of a tile of queries with keys, and weights times values.

8-bit codes go into the products as they are and what they are scaled by comes in beside them, per token: of int8,
less 128 (every integer up to 256 is a bfloat16), q . (scale c + minimum) = scale (q . c) + minimum sum(q); of fp8,
whose numbers a bfloat16 holds, q . (scale c) = scale (q . c). That is exact where decoded numbers would be rounded to
16 bits, and spares two operations an element. 4-bit codes have a scale for each 32 dimensions and are decoded; their
columns come out in the order of `column_dims`, which queries and outputs share.

IS_MASKED: whether positions of the tile may lie behind the context. Shape letters: M rows (token and head), N
positions, K head dimension, filled up to DIM, a power of 2.
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
    """Where the vectors of these slots begin: their blocks, and they in the blocks. Apart, because the second is the
    same in every tile: added to the pointer first it leaves one multiply-add a vector to the loop. Unsigned, because
    that has 64 bits in one instruction."""
    stride = tl.cast(tl.cast(strides[0], tl.uint32), tl.uint64)
    return (blocks_N.to(tl.uint32).to(tl.uint64) * stride).to(tl.int64), places_N * strides[1] + head * strides[2]


@triton.jit
def _loaded(places, offsets_N, is_there_N, IS_MASKED: tl.constexpr, USED: tl.constexpr, COLUMNS: tl.constexpr):
    """[N, COLUMNS] from `offsets_N` on; 0 in columns from USED on and, if IS_MASKED, where nothing is there."""
    columns = tl.arange(0, COLUMNS)
    pointers = places + (offsets_N[1][:, None] + columns[None, :]) + offsets_N[0][:, None]
    if IS_MASKED:
        if USED < COLUMNS:
            return tl.load(pointers, mask=is_there_N[:, None] & (columns < USED)[None, :], other=0)
        return tl.load(pointers, mask=is_there_N[:, None], other=0)
    if USED < COLUMNS:
        return tl.load(pointers, mask=(columns < USED)[None, :], other=0)
    return tl.load(pointers)


@triton.jit
def _by_position(ranges, offsets_N, is_there_N, IS_MASKED: tl.constexpr):
    pointers = ranges + offsets_N[1] + offsets_N[0]
    if IS_MASKED:
        return tl.load(pointers, mask=is_there_N, other=0).to(tl.float32)
    return tl.load(pointers).to(tl.float32)


@triton.jit
def _scale_and_middle(ranges, offsets_N, is_there_N, IS_MASKED: tl.constexpr):
    """Of int8 codes less 128, float32. Loaded as words of 32 bits, the least that copies itself to shared memory."""
    pointers = ranges.to(tl.pointer_type(tl.int32)) + offsets_N[1] // 2 + (offsets_N[0] >> 1)
    pair_N = tl.load(pointers, mask=is_there_N if IS_MASKED else None, other=0 if IS_MASKED else None)
    scale_N = (pair_N << 16).to(tl.float32, bitcast=True)
    return scale_N, (pair_N & -65536).to(tl.float32, bitcast=True) + 128 * scale_N


@triton.jit
def _int4_tile(
    codes, ranges, code_offsets_N, range_offsets_N, is_there_N,
    IS_MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Decoded, float32 [N, DIM], columns in the order of `column_dims`."""
    N: tl.constexpr = is_there_N.shape[0]
    GROUPS: tl.constexpr = DIM // 32
    packed = _loaded(codes, code_offsets_N, is_there_N, IS_MASKED, HEAD_DIM // 2, DIM // 2)
    levels = tl.interleave(packed & 15, packed >> 4).to(tl.float32).reshape(N, GROUPS, 32)
    pairs = _loaded(ranges, range_offsets_N, is_there_N, IS_MASKED, HEAD_DIM // 16, 2 * GROUPS)
    scale, minimum = tl.split(pairs.to(tl.float32).reshape(N, GROUPS, 2))
    return (levels * scale[:, :, None] + minimum[:, :, None]).reshape(N, DIM)


@triton.jit
def e4m3_numbers(codes, dtype: tl.constexpr, IS_NATIVE: tl.constexpr):
    """Of codes uint8. Not IS_NATIVE: by moving the bits to where a float32 has them, whose exponent is 120 less."""
    if IS_NATIVE:
        # In two steps: Triton 3.6 writes bfloat16 by an instruction of compute capability 9.0 on 8.9 too.
        return codes.to(tl.float8e4nv, bitcast=True).to(tl.float16).to(dtype)
    wide = codes.to(tl.int32)
    bits = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
    return (bits.to(tl.float32, bitcast=True) * 1.329227995784916e36).to(dtype)  # 2^120


@triton.jit
def _tile(
    codes, ranges, code_offsets_N, range_offsets_N, is_there_N, dtype: tl.constexpr,
    IS_MASKED: tl.constexpr, KIND: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """[N, DIM] of `dtype`, before a position's scale."""
    if KIND == "int4":
        tile = _int4_tile(codes, ranges, code_offsets_N, range_offsets_N, is_there_N, IS_MASKED, HEAD_DIM, DIM)
        return tile.to(dtype)
    tile = _loaded(codes, code_offsets_N, is_there_N, IS_MASKED, HEAD_DIM, DIM)
    if KIND == "int8":
        return (tile.to(tl.float32) - 128).to(dtype)  # columns behind HEAD_DIM meet zeros of q
    if KIND == "fp8" or KIND == "fp8_native":
        return e4m3_numbers(tile, dtype, KIND == "fp8_native")
    return tile.to(dtype)


@triton.jit
def tile_scores(
    q_MK, sums_M, codes, ranges, code_offsets_N, range_offsets_N, is_there_N,
    IS_MASKED: tl.constexpr, KIND: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """q . k, float32 [M, N]. `sums_M`: of each row of q."""
    tile = _tile(
        codes, ranges, code_offsets_N, range_offsets_N, is_there_N, q_MK.dtype, IS_MASKED, KIND, HEAD_DIM, DIM
    )
    scores = tl.dot(q_MK, tl.trans(tile), input_precision="ieee")
    if KIND == "int8":
        scale_N, middle_N = _scale_and_middle(ranges, range_offsets_N, is_there_N, IS_MASKED)
        return scores * scale_N[None, :] + sums_M[:, None] * middle_N[None, :]
    if KIND == "fp8" or KIND == "fp8_native":
        return scores * _by_position(ranges, range_offsets_N, is_there_N, IS_MASKED)[None, :]
    return scores


@triton.jit
def tile_mix(
    mixed_MK, shift_M, weights_MN, codes, ranges, code_offsets_N, range_offsets_N, is_there_N, dtype: tl.constexpr,
    IS_MASKED: tl.constexpr, KIND: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """`mixed_MK` + weights . v, float32 [M, DIM], and what is to be added to all of a row, [M]: 0 but for int8."""
    tile = _tile(codes, ranges, code_offsets_N, range_offsets_N, is_there_N, dtype, IS_MASKED, KIND, HEAD_DIM, DIM)
    if KIND == "int8":
        scale_N, middle_N = _scale_and_middle(ranges, range_offsets_N, is_there_N, IS_MASKED)
        shift_M += tl.sum(weights_MN * middle_N[None, :], 1)
        weights_MN = weights_MN * scale_N[None, :]
    elif KIND == "fp8" or KIND == "fp8_native":
        weights_MN = weights_MN * _by_position(ranges, range_offsets_N, is_there_N, IS_MASKED)[None, :]
    return tl.dot(weights_MN.to(dtype), tile, mixed_MK, input_precision="ieee"), shift_M
