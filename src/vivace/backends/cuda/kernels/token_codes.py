"""Activations rounded to 8 bits with a scale a token: int8 (`ops.reference_activations.round_tokens`), int8 beside
outliers (`round_inliers`), e4m3 numbers (`round_tokens_fp8`).

Shape letters: T rows, D inputs, S steps of 128 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.ops.reference_activations import OUTLIER_MAGNITUDE, SMALLEST_MAGNITUDE

STEP = 128
SMALLEST: tl.constexpr = tl.constexpr(SMALLEST_MAGNITUDE)
OUTLIER: tl.constexpr = tl.constexpr(OUTLIER_MAGNITUDE)


@dataclass(frozen=True, slots=True)
class TokenCodes:
    """`codes_TD` int8, or uint8 of e4m3 numbers; `scales_T` float32: the largest magnitude / 127 or 448, NaN for rows
    not finite; `outliers_TS` uint8: whether any of a step's inputs is one, None if none is kept."""

    codes_TD: Tensor
    scales_T: Tensor
    outliers_TS: Tensor | None = None


def token_codes(x_TD: Tensor, *, keeps_outliers: bool = False, is_float: bool = False) -> TokenCodes:
    """Of rows with unit stride. An outlier has the code 0."""
    num_rows, width = x_TD.shape
    codes_TD = torch.empty(x_TD.shape, dtype=torch.uint8 if is_float else torch.int8, device=x_TD.device)
    scales_T = torch.empty(num_rows, dtype=torch.float32, device=x_TD.device)
    num_steps = triton.cdiv(width, STEP)
    size = (num_rows, num_steps if keeps_outliers else 0)
    outliers_TS = torch.empty(size, dtype=torch.uint8, device=x_TD.device)
    columns = max(STEP, triton.next_power_of_2(width))
    if num_rows:
        code_tokens[(num_rows,)](
            x_TD, codes_TD, scales_T, outliers_TS if keeps_outliers else codes_TD, x_TD.stride(0), num_steps,
            WIDTH=width, COLUMNS=columns, STEP=STEP, KEEPS_OUTLIERS=keeps_outliers, IS_FLOAT=is_float,
            num_warps=min(8, max(1, columns // 512)), enable_fp_fusion=False,
        )  # fmt: skip
    return TokenCodes(codes_TD, scales_T, outliers_TS if keeps_outliers else None)


@triton.jit
def code_tokens(
    x, codes, scales, outliers, stride, num_steps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, KEEPS_OUTLIERS: tl.constexpr,
    IS_FLOAT: tl.constexpr,
):  # fmt: skip
    """Program: a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_there = column < WIDTH
    values = tl.load(x + row * stride + column, mask=is_there, other=0).to(tl.float32)
    if KEEPS_OUTLIERS:
        is_outlier = tl.abs(values) >= OUTLIER
        values = tl.where(is_outlier, 0.0, values)
        step = tl.arange(0, COLUMNS // STEP)
        has_outlier = tl.max(is_outlier.to(tl.int32).reshape(COLUMNS // STEP, STEP), 1)
        tl.store(outliers + row * num_steps + step, has_outlier.to(tl.uint8), mask=step < num_steps)
    level, scale = token_levels(values, IS_FLOAT)
    tl.store(codes + row * WIDTH + column, level.to(codes.dtype.element_ty), mask=is_there)
    tl.store(scales + row, scale)


@triton.jit
def token_levels(values, IS_FLOAT: tl.constexpr):
    """Of a row's float32 numbers: levels from -127 to 127 as float32, or bits of e4m3 numbers as int32; the scale."""
    LARGEST: tl.constexpr = 448.0 if IS_FLOAT else 127.0
    is_finite = tl.sum(tl.where(tl.abs(values) < float("inf"), 0, 1), 0) == 0
    largest = tl.max(tl.where(is_finite, tl.abs(values), 0.0), 0)
    scale = tl.where(largest < SMALLEST, 0.0, tl.div_rn(largest, LARGEST))
    inverse = tl.where(scale == 0, 0.0, tl.div_rn(1.0, tl.where(scale == 0, 1.0, scale)))
    level = tl.where(is_finite, values, 0.0) * inverse
    level = e4m3_bits(level) if IS_FLOAT else nearest_integer(level)
    return level, tl.where(is_finite, scale, float("nan"))


@triton.jit
def nearest_integer(x):
    """Below 2^22: 1.5 * 2^23 has no bits for fractions. Ties to even."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def e4m3_bits(x):
    """Of float32 numbers up to 448 in size, int32: rounded by integers to three bits of mantissa, ties to even; below
    2^-6 to multiples of 2^-9."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = nearest_integer(tl.minimum(tl.abs(x), 1.0) * 512).to(tl.int32)
    return tl.where(tl.abs(x) < 0.015625, small, tl.minimum(normal, 0x7E)) | ((bits >> 24) & 0x80)
