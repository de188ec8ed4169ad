"""Activations rounded to 8 bits with a scale a token: int8 (`ops.reference_activations.round_tokens`), int8 beside
outliers (`round_inliers`), e4m3 numbers (`round_tokens_fp8`). A kernel's way to `vivace.backends.cuda.token_codes`.

Shape letters: T rows, D inputs, S steps of 128 inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor
from vivace.backends.cuda.token_codes import TokenCodes
from vivace.ops.reference_activations import OUTLIER_MAGNITUDE, SMALLEST_MAGNITUDE

STEP = 128
SMALLEST: tl.constexpr = tl.constexpr(SMALLEST_MAGNITUDE)
OUTLIER: tl.constexpr = tl.constexpr(OUTLIER_MAGNITUDE)


def token_codes(x_TD: Tensor, encoding: str) -> TokenCodes:
    """Of rows with unit stride, for a product with a matrix of one of `TOKEN_ENCODINGS`."""
    num_rows, width = x_TD.shape
    coded = empty_codes(x_TD, encoding)
    columns = max(STEP, triton.next_power_of_2(width))
    if num_rows:
        code_tokens[(num_rows,)](
            x_TD, coded.codes_TD, coded.scales_T, coded.codes_TD if coded.outliers_TS is None else coded.outliers_TS,
            x_TD.stride(0), triton.cdiv(width, STEP),
            WIDTH=width, COLUMNS=columns, STEP=STEP, KEEPS_OUTLIERS=coded.outliers_TS is not None,
            IS_FLOAT=encoding == "fp8_channel", num_warps=min(8, max(1, columns // 512)), enable_fp_fusion=False,
            **launch_options(x_TD.device),
        )  # fmt: skip
    return coded


def empty_codes(x_TD: Tensor, encoding: str) -> TokenCodes:
    """Room for those of rows like these, which stay beside them where outliers are kept."""
    num_rows, width = x_TD.shape
    dtype = torch.uint8 if encoding == "fp8_channel" else torch.int8
    codes_TD = torch.empty((num_rows, width), dtype=dtype, device=x_TD.device)
    scales_T = torch.empty(num_rows, dtype=torch.float32, device=x_TD.device)
    if encoding != "int8_outlier":
        return TokenCodes(codes_TD, scales_T, x_TD.dtype)
    outliers_TS = torch.empty((num_rows, triton.cdiv(width, STEP)), dtype=torch.uint8, device=x_TD.device)
    return TokenCodes(codes_TD, scales_T, x_TD.dtype, x_TD, outliers_TS)


@triton.jit
def code_tokens(
    x, codes, scales, outliers, stride, num_steps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, KEEPS_OUTLIERS: tl.constexpr,
    IS_FLOAT: tl.constexpr,
):  # fmt: skip
    """Program: a row."""
    wait_for_predecessor()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    values = tl.load(x + row * stride + column, mask=column < WIDTH, other=0).to(tl.float32)
    RUN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    store_codes(values, row, codes, scales, outliers, num_steps, WIDTH, COLUMNS, STEP, KEEPS_OUTLIERS, IS_FLOAT, RUN)


@triton.jit
def store_codes(
    values, row, codes, scales, outliers, num_steps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, KEEPS_OUTLIERS: tl.constexpr,
    IS_FLOAT: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Of a row's float32 numbers, zeros behind the last of them. RUN: as many as a thread loaded at once. Stores are
    held to it: of 16 codes a thread they would change which thread has which numbers of the row, and with it the
    order in which squares are summed; and numbers would change places through shared memory."""
    column = tl.arange(0, COLUMNS)
    if KEEPS_OUTLIERS:
        is_outlier = tl.abs(values) >= OUTLIER
        values = tl.where(is_outlier, 0.0, values)
        step = tl.arange(0, COLUMNS // STEP)
        has_outlier = tl.max(is_outlier.to(tl.int32).reshape(COLUMNS // STEP, STEP), 1)
        tl.store(outliers + row * num_steps + step, has_outlier.to(tl.uint8), mask=step < num_steps)
    level, scale = token_levels(values, IS_FLOAT)
    place = tl.max_contiguous(row * WIDTH + column, RUN)
    tl.store(codes + place, level.to(codes.dtype.element_ty), mask=column < WIDTH)
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
