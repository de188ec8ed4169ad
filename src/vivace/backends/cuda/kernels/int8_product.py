"""W8A8: int8 of a token times int8 of a row, exact int32 sums, and their two scales (`ops.reference_activations`).

Shape letters: T rows, N outputs, D inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.ops.reference_activations import SMALLEST_MAGNITUDE

SMALLEST: tl.constexpr = tl.constexpr(SMALLEST_MAGNITUDE)


def token_codes(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [T, D] and the scale of each row, float32 [T]: its largest magnitude / 127, NaN for rows not finite."""
    codes_TD = torch.empty(x_TD.shape, dtype=torch.int8, device=x_TD.device)
    scales_T = torch.empty(len(x_TD), dtype=torch.float32, device=x_TD.device)
    width = x_TD.shape[1]
    columns = triton.next_power_of_2(width)
    if len(x_TD):
        code_tokens[(len(x_TD),)](
            x_TD, codes_TD, scales_T, x_TD.stride(0), WIDTH=width, COLUMNS=columns,
            num_warps=min(8, max(1, columns // 512)), enable_fp_fusion=False,
        )  # fmt: skip
    return codes_TD, scales_T


def int8_product(codes_TD: Tensor, scales_T: Tensor, codes_ND: Tensor, scales_N: Tensor) -> Tensor:
    """[T, N] float32, of contiguous int8 matrices and float32 scales."""
    num_rows, num_inputs = codes_TD.shape
    num_outputs = len(codes_ND)
    out_TN = torch.empty((num_rows, num_outputs), dtype=torch.float32, device=codes_TD.device)
    rows = min(128, max(16, triton.next_power_of_2(num_rows)))
    outputs = 32 if num_rows <= 16 else 128
    if num_rows:
        multiply_int8[(triton.cdiv(num_outputs, outputs), triton.cdiv(num_rows, rows))](
            codes_TD, scales_T, codes_ND, scales_N, out_TN, num_rows, num_outputs, num_inputs,
            ROWS=rows, OUTPUTS=outputs, INPUTS=128, num_warps=4, num_stages=3,
        )  # fmt: skip
    return out_TN


@triton.jit
def code_tokens(x, codes, scales, stride, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Program: a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_there = column < WIDTH
    values = tl.load(x + row * stride + column, mask=is_there, other=0).to(tl.float32)
    is_finite = tl.sum(tl.where(tl.abs(values) < float("inf"), 0, 1), 0) == 0
    largest = tl.max(tl.where(is_finite, tl.abs(values), 0.0), 0)
    scale = tl.where(largest < SMALLEST, 0.0, tl.div_rn(largest, 127.0))
    inverse = tl.where(scale == 0, 0.0, tl.div_rn(1.0, tl.where(scale == 0, 1.0, scale)))
    level = tl.where(is_finite, values, 0.0) * inverse
    level = (level + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest integer, ties to even
    tl.store(codes + row * WIDTH + column, level.to(tl.int8), mask=is_there)
    tl.store(scales + row, tl.where(is_finite, scale, float("nan")))


@triton.jit
def multiply_int8(
    x, x_scales, codes, scales, out, num_rows, num_outputs, num_inputs,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """Program (run of outputs, run of rows)."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    total = tl.zeros([ROWS, OUTPUTS], tl.int32)
    for start in range(0, num_inputs, INPUTS):
        column = start + tl.arange(0, INPUTS)
        is_there = column < num_inputs
        left = x + row.to(tl.int64)[:, None] * num_inputs + column[None, :]
        right = codes + output.to(tl.int64)[:, None] * num_inputs + column[None, :]
        x_tile = tl.load(left, mask=is_row[:, None] & is_there[None, :], other=0)
        tile = tl.load(right, mask=is_output[:, None] & is_there[None, :], other=0)
        total = tl.dot(x_tile, tl.trans(tile), total)
    x_scale = tl.load(x_scales + row, mask=is_row, other=0)
    scale = tl.load(scales + output, mask=is_output, other=0)
    result = total.to(tl.float32) * x_scale[:, None] * scale[None, :]
    place = out + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(place, result, mask=is_row[:, None] & is_output[None, :])
