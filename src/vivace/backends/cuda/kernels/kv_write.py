"""Keys and values of a step into their slots, coded on the way; with rope, queries and keys are turned before.

Levels are found as `vivace.ops.reference_kv.round_levels` defines them, every operation rounded for itself (hence no
fused multiply-add), so codes and ranges have the reference's bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.paged_plane import PagedPlane
from vivace.backends.cuda.kernels.rope import rotated
from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor


def kv_write(k_TD: Tensor, v_TD: Tensor, slots_T: Tensor, keys: PagedPlane, values: PagedPlane) -> None:
    """k, v [T, G*K] with unit stride along a row; slots_T: block * block_size + place."""
    _launch(None, k_TD, v_TD, None, slots_T, keys, values)


def rope_write(
    q_TD: Tensor,
    k_TD: Tensor,
    v_TD: Tensor,
    table_T2P: Tensor,
    slots_T: Tensor,
    keys: PagedPlane,
    values: PagedPlane,
) -> Tensor:
    """`kv_write` of keys that are not turned yet, and the turned queries [T, H*K] in q's type: one launch for what
    `rope` needs two more for. `table_T2P`: as there."""
    out_TD = torch.empty(q_TD.shape, dtype=q_TD.dtype, device=q_TD.device)
    _launch((q_TD, out_TD), k_TD, v_TD, table_T2P, slots_T, keys, values)
    return out_TD


def _launch(
    queries: tuple[Tensor, Tensor] | None,
    k_TD: Tensor,
    v_TD: Tensor,
    table_T2P: Tensor | None,
    slots_T: Tensor,
    keys: PagedPlane,
    values: PagedPlane,
) -> None:
    if not len(k_TD):
        return
    q_TD, out_TD = (k_TD, k_TD) if queries is None else queries
    table = k_TD if table_T2P is None else table_T2P
    num_query_heads = 0 if queries is None else q_TD.shape[1] // keys.head_dim
    write_slots[(len(k_TD), num_query_heads + 2 * keys.num_kv_heads)](
        q_TD, k_TD, v_TD, table, out_TD, slots_T,
        keys.codes, keys.ranges_or_codes, values.codes, values.ranges_or_codes,
        q_TD.stride(0), k_TD.stride(0), v_TD.stride(0), table.stride(0), out_TD.stride(0),
        keys.code_strides, keys.range_strides, values.code_strides, values.range_strides,
        QUERY_HEADS=num_query_heads, KV_HEADS=keys.num_kv_heads,
        HEAD_DIM=keys.head_dim, DIM=max(32, triton.next_power_of_2(keys.head_dim)), BLOCK_SIZE=keys.block_size,
        KIND=keys.kind, PAIRS=0 if table_T2P is None else table.shape[1] // 2,
        num_warps=1, enable_fp_fusion=False, **launch_options(k_TD.device),
    )  # fmt: skip


@triton.jit
def write_slots(
    q, k, v, table, out, slots, key_codes, key_ranges, value_codes, value_ranges,
    q_stride, k_stride, v_stride, table_stride, out_stride,
    key_strides, key_range_strides, value_strides, value_range_strides,
    QUERY_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, KIND: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Program (row, head): the query heads to turn, then KV heads with their keys, then with their values."""
    wait_for_predecessor()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dim = tl.arange(0, DIM)
    is_there = dim < HEAD_DIM
    angles = table + row * table_stride
    if head < QUERY_HEADS:
        vector = rotated(q + row * q_stride + head * HEAD_DIM, angles, is_there, DIM, PAIRS)
        place = out + row * out_stride + head * HEAD_DIM + dim
        tl.store(place, vector.to(out.dtype.element_ty), mask=is_there)
        return
    slot = tl.load(slots + row).to(tl.int64)
    head -= QUERY_HEADS
    if head < KV_HEADS:
        vector = k + row * k_stride + head * HEAD_DIM
        if PAIRS > 0:
            # Rounded to k's type as a value between two operations is.
            key = rotated(vector, angles, is_there, DIM, PAIRS).to(k.dtype.element_ty)
        else:
            key = tl.load(vector + dim, mask=is_there, other=0)
        _write(key, slot, head, key_codes, key_ranges, key_strides, key_range_strides, HEAD_DIM, BLOCK_SIZE, KIND)
    else:
        head -= KV_HEADS
        value = tl.load(v + row * v_stride + head * HEAD_DIM + dim, mask=is_there, other=0)
        _write(
            value, slot, head, value_codes, value_ranges, value_strides, value_range_strides,
            HEAD_DIM, BLOCK_SIZE, KIND,
        )  # fmt: skip


@triton.jit
def _write(
    values, slot, head, codes, ranges, code_strides, range_strides,
    HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """One vector [DIM] of a head into its slot."""
    DIM: tl.constexpr = values.shape[0]
    dim = tl.arange(0, DIM)
    is_there = dim < HEAD_DIM
    block, place = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    to_codes = codes + block * code_strides[0] + place * code_strides[1] + head * code_strides[2]
    to_ranges = ranges + block * range_strides[0] + place * range_strides[1] + head * range_strides[2]
    if KIND == "float":
        tl.store(to_codes + dim, values.to(codes.dtype.element_ty), mask=is_there)
    elif KIND == "fp8" or KIND == "fp8_native":
        bits, scale = _e4m3(values.to(tl.float32), is_there)
        tl.store(to_codes + dim, bits, mask=is_there)
        tl.store(to_ranges + tl.arange(0, 1), scale.to(tl.bfloat16))
    elif KIND == "int8":
        levels, scale, minimum = _levels(values.to(tl.float32).reshape(1, DIM), is_there.reshape(1, DIM), 255)
        tl.store(to_codes + dim, levels.reshape(DIM), mask=is_there)
        one = tl.arange(0, 1)
        tl.store(to_ranges + 2 * one, scale.to(tl.bfloat16))
        tl.store(to_ranges + 2 * one + 1, minimum.to(tl.bfloat16))
    else:
        group = tl.arange(0, DIM // 32)
        grouped = values.to(tl.float32).reshape(DIM // 32, 32)
        levels, scale, minimum = _levels(grouped, is_there.reshape(DIM // 32, 32), 15)
        low, high = tl.split(tl.trans(levels.reshape(DIM // 32, 2, 16), 0, 2, 1))
        byte = group[:, None] * 16 + tl.arange(0, 16)[None, :]
        tl.store(to_codes + byte, low | (high << 4), mask=byte < HEAD_DIM // 2)
        tl.store(to_ranges + 2 * group, scale.to(tl.bfloat16), mask=group < HEAD_DIM // 32)
        tl.store(to_ranges + 2 * group + 1, minimum.to(tl.bfloat16), mask=group < HEAD_DIM // 32)


@triton.jit
def _e4m3(x, is_there):
    """Of [n]: bits uint8, and the scale [1], float32 that a bfloat16 holds. Rounded by integers to three bits of
    mantissa, ties to even; below 2^-6 to multiples of 2^-9."""
    x = tl.where(is_there, x, 0.0).reshape(1, x.shape[0])
    largest = tl.max(tl.abs(x), 1)
    is_finite = tl.sum((~(tl.abs(x) < float("inf"))).to(tl.int32), 1) == 0
    largest = tl.where(is_finite, largest, 0.0)
    scale = tl.div_rn(largest, tl.full(largest.shape, 448, tl.float32))
    scale = ((scale.to(tl.int32, bitcast=True) + 0xFFFF) & -65536).to(tl.float32, bitcast=True)
    scale = tl.where(scale >= 1e-30, scale, 0.0)
    inverse = tl.where(
        scale > 0, tl.div_rn(tl.full(scale.shape, 1, tl.float32), tl.where(scale > 0, scale, 1.0)), 0.0
    )
    scaled = tl.where(is_finite[:, None], x, 0.0) * inverse[:, None]
    bits = scaled.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = ((tl.abs(scaled) * 512 + 12582912.0) - 12582912.0).to(tl.int32)
    code = tl.where(tl.abs(scaled) < 0.015625, small, tl.minimum(normal, 0x7E)) | ((bits >> 24) & 0x80)
    return code.to(tl.uint8).reshape(x.shape[1]), tl.where(is_finite, scale, float("nan"))


@triton.jit
def _levels(x, is_there, TOP: tl.constexpr):
    """Of [groups, n]: codes uint8, scale and minimum of each group, float32 that a bfloat16 holds."""
    low = tl.min(tl.where(is_there, x, float("inf")), 1)
    high = tl.max(tl.where(is_there, x, -float("inf")), 1)
    is_finite = tl.sum((is_there & ~(tl.abs(x) < float("inf"))).to(tl.int32), 1) == 0  # extremes pass over NaN
    is_level = is_finite & (low <= high)  # not what lies behind the last group of a vector
    low, high = tl.where(is_level, low, 0.0), tl.where(is_level, high, 0.0)
    x = tl.where(is_there & is_finite[:, None], x, 0.0)
    bits = low.to(tl.int32, bitcast=True)
    minimum = (tl.where(bits < 0, bits + 0xFFFF, bits) & -65536).to(tl.float32, bitcast=True)
    scale = tl.div_rn(high - minimum, tl.full(high.shape, TOP, tl.float32))
    scale = ((scale.to(tl.int32, bitcast=True) + 0xFFFF) & -65536).to(tl.float32, bitcast=True)
    scale = tl.where(scale >= 1e-30, scale, 0.0)
    inverse = tl.where(
        scale > 0, tl.div_rn(tl.full(scale.shape, 1, tl.float32), tl.where(scale > 0, scale, 1.0)), 0.0
    )
    level = (x - minimum[:, None]) * inverse[:, None]
    level = tl.where(is_there & is_finite[:, None], level, 0.0)
    level = (level + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest integer, ties to even
    codes = tl.minimum(tl.maximum(level, 0.0), TOP).to(tl.uint8)
    return codes, tl.where(is_finite, scale, float("nan")), minimum
