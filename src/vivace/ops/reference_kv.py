"""What the quantised KV cache types mean: which numbers a written key or value reads back as. NumPy.

int8_per_token_head   each token's vector of a KV head: 256 levels between its extremes
int4_per_token_head   16 levels between the extremes of each 32 dimensions of it
int4_k_per_channel    values as int4_per_token_head; keys by channel, 16 levels between the extremes that a dimension
                      takes over the tokens of a block (KIVI; Liu et al., 2024, arXiv:2402.02750: keys have outlier
                      channels, which a scale by token would pay for with every other channel)
fp8_e4m3              8-bit floats of 4 exponent and 3 mantissa bits (Micikevicius et al., 2022, arXiv:2209.05433),
                      scaled so that the largest element of each token's vector of a KV head is at most 448, theirs

A level c stands for scale * c + minimum, both bfloat16, which has float32's range; an e4m3 number c for scale * c.
The minimum is rounded down and the scale up (by less than 1 in 128), so that every element has a level.

**Keys by channel, and when.** Extremes over a block exist once the block is full, so a key has two forms: float16
as it was written, and its level. The query at position p reads blocks *before its own*, floor(p / block_size), as
levels, and its own block as float16, whether that is full by now or not. The rule knows positions only. Hence no
result depends on the chunks in which a prompt came, on a preemption (recomputed from the start), on a shared prefix
(whole blocks before the first computed position: all levels) or on rejected draft tokens (the float16 form of their
block is kept until a step begins behind it, and filling it again replaces its levels).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.config import KVDtype

FloatArray = NDArray[Any]

INT4_GROUP = 32  # dimensions of a vector that share a scale
E4M3_LARGEST = 448.0  # 1.75 * 2^8
E4M3_SMALLEST_NORMAL_EXPONENT = -6  # below 2^-6 numbers are multiples of 2^-9


def round_bf16(x: FloatArray) -> FloatArray:
    """The nearest bfloat16, ties to even, in x's dtype."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32).astype(x.dtype)


def round_f16(x: FloatArray) -> FloatArray:
    """The nearest float16, in x's dtype."""
    return x.astype(np.float16).astype(x.dtype)


def round_f32(x: FloatArray) -> FloatArray:
    return x.astype(np.float32).astype(x.dtype)


def round_levels(x: FloatArray, axis: int, levels: int) -> FloatArray:
    """Each element at the nearest of `levels` + 1 levels between the extremes along `axis`, in x's dtype.

    The level is found in float32, so that it is the same wherever it is computed. Elements along an axis on which one
    is not finite become NaN.
    """
    single = x.astype(np.float32)
    low, high = np.min(single, axis, keepdims=True), np.max(single, axis, keepdims=True)
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, np.float32(0)), np.where(finite, high, np.float32(0))
    minimum = _bf16_down(low)
    scale = _bf16_up((high - minimum) / np.float32(levels))
    scale = np.where(scale >= np.float32(1e-30), scale, np.float32(0))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    with np.errstate(invalid="ignore", over="ignore"):
        code = np.minimum(np.rint((single - minimum) * inverse), np.float32(levels))
    result = code.astype(x.dtype) * scale.astype(x.dtype) + minimum.astype(x.dtype)
    return np.where(finite, result, np.nan).astype(x.dtype)


def round_int8(x: FloatArray) -> FloatArray:
    """Vectors along the last axis, 256 levels."""
    return round_levels(x, -1, 255)


def round_fp8_e4m3(x: FloatArray) -> FloatArray:
    """Vectors along the last axis: each element over the scale at the nearest e4m3 number, found in float32."""
    single = x.astype(np.float32)
    largest = np.max(np.abs(single), -1, keepdims=True)
    finite = np.isfinite(largest)
    scale = _bf16_up(np.where(finite, largest, np.float32(0)) / np.float32(E4M3_LARGEST))
    scale = np.where(scale >= np.float32(1e-30), scale, np.float32(0))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    with np.errstate(invalid="ignore", over="ignore"):
        code = nearest_e4m3(np.where(finite, single, np.float32(0)) * inverse)
    return np.where(finite, code.astype(x.dtype) * scale.astype(x.dtype), np.nan).astype(x.dtype)


def nearest_e4m3(x: FloatArray) -> FloatArray:
    """Of float32 numbers: the nearest e4m3 number, ties to even, at most 448 in size."""
    _, exponent = np.frexp(x)  # x = m * 2^exponent, 1/2 <= |m| < 1: three bits behind the first
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, E4M3_SMALLEST_NORMAL_EXPONENT) - 3)
    rounded: FloatArray = np.clip(np.rint(x / step) * step, -np.float32(E4M3_LARGEST), np.float32(E4M3_LARGEST))
    return rounded


def round_int4(x: FloatArray) -> FloatArray:
    """Groups of 32 along the last axis, 16 levels; the last group may be shorter."""
    parts = [round_levels(x[..., i : i + INT4_GROUP], -1, 15) for i in range(0, x.shape[-1], INT4_GROUP)]
    return np.concatenate(parts, axis=-1)


def round_channels(keys: FloatArray) -> FloatArray:
    """Keys of whole blocks [..., block_size, K]: 16 levels for each dimension over a block's tokens."""
    return round_levels(keys, -2, 15)


def _bf16_down(x: FloatArray) -> FloatArray:
    bits = x.view(np.uint32)
    away_from_zero = np.where(bits >> np.uint32(31), bits + np.uint32(0xFFFF), bits)
    return (away_from_zero & np.uint32(0xFFFF0000)).view(np.float32)


def _bf16_up(x: FloatArray) -> FloatArray:
    """Of numbers that are not negative."""
    return ((x.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


# What a written vector [..., K] reads back as. Keys of int4_k_per_channel: float16 until `round_channels`.
KEY_ROUNDING = {
    "f32": round_f32,
    "bf16": round_bf16,
    "f16": round_f16,
    "int8_per_token_head": round_int8,
    "int4_per_token_head": round_int4,
    "int4_k_per_channel": round_f16,
    "fp8_e4m3": round_fp8_e4m3,
}


def round_values(x: FloatArray, dtype: KVDtype) -> FloatArray:
    """Values [..., K] as the cache type holds them."""
    return round_int4(x) if dtype == "int4_k_per_channel" else KEY_ROUNDING[dtype](x)
