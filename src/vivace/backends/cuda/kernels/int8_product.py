"""W8A8 and LLM.int8(): int8 of a token times int8 of a row, exact int32 sums, and their two scales
(`ops.reference_activations`).

LLM.int8() adds the products of outliers, floats with the same int8 weights, in a second pass over those steps of 128
inputs in which any row of the tile has one: they lie in few columns, the same in all tokens, so it is a few steps of
the weight more. What is no outlier adds zeros there: a row's result does not depend on its neighbours' outliers.

Few rows as many are the second operand, which may be eight wide: weights are the first, 64 or 128 outputs. Up to 64
rows the inputs are cut in parts by the weight's shape alone (`split`).

Shape letters: T rows, N outputs, D inputs, S steps of 128 inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.split import FEW_ROWS, Tiling, parts_for, split_of, sum_parts
from vivace.backends.cuda.kernels.token_codes import OUTLIER, STEP, TokenCodes


def tiling_of(num_rows: int, *, keeps_outliers: bool) -> Tiling:
    """Outliers' sums take registers beside the others': tiles of half as many rows."""
    if num_rows > FEW_ROWS:
        return Tiling(128, 64 if keeps_outliers else 128, 8, 3)
    rows = max(8, triton.next_power_of_2(num_rows))
    return Tiling(64, rows, 4, 4 if rows <= 16 else 3)


def int8_product(
    x_TD: Tensor, coded: TokenCodes, codes_ND: Tensor, scales_N: Tensor, out_TN: Tensor, bias_N: Tensor | None
) -> None:
    """Writes the product of what `coded` has made of x to `out_TN`, with contiguous int8 codes and float32 scales."""
    num_rows, num_inputs = x_TD.shape
    num_outputs = len(codes_ND)
    if not num_rows:
        return
    num_steps = triton.cdiv(num_inputs, STEP)
    keeps_outliers = coded.outliers_TS is not None
    tiling = tiling_of(num_rows, keeps_outliers=keeps_outliers)
    split = split_of(num_outputs, num_steps, STEP) if num_rows <= FEW_ROWS else 1
    parts = parts_for(out_TN, split)
    grid = (triton.cdiv(num_outputs, tiling.outputs), triton.cdiv(num_rows, tiling.rows), split)
    multiply_int8[grid](
        x_TD, coded.codes_TD, coded.scales_T, coded.outliers_TS if keeps_outliers else coded.codes_TD,
        codes_ND, scales_N, parts, scales_N if bias_N is None else bias_N,
        num_rows, num_outputs, num_inputs, num_steps, triton.cdiv(num_steps, split), x_TD.stride(0), parts.stride(-2),
        KEEPS_OUTLIERS=keeps_outliers, HAS_BIAS=bias_N is not None and split == 1,
        OUTPUTS=tiling.outputs, ROWS=tiling.rows, STEP=STEP, num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    if split > 1:
        sum_parts(parts, out_TN, bias_N)


@triton.jit
def multiply_int8(
    x, x_codes, x_scales, outliers, codes, scales, out, bias,
    num_rows, num_outputs, num_inputs, num_steps, steps_per_part, x_stride, out_stride,
    KEEPS_OUTLIERS: tl.constexpr, HAS_BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Program (run of outputs, run of rows, part of the inputs)."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    weight_row = codes + output.to(tl.int64)[:, None] * num_inputs
    code_row = x_codes + row.to(tl.int64)[:, None] * num_inputs
    first = tl.program_id(2) * steps_per_part
    last = tl.minimum(first + steps_per_part, num_steps)
    column = tl.arange(0, STEP)
    total = tl.zeros([OUTPUTS, ROWS], tl.int32)
    for step in range(first, last):
        at = (step * STEP + column)[None, :]
        weight = tl.load(weight_row + at, mask=is_output[:, None] & (at < num_inputs), other=0)
        code = tl.load(code_row + at, mask=is_row[:, None] & (at < num_inputs), other=0)
        total = tl.dot(weight, tl.trans(code), total)
    result = total.to(tl.float32) * tl.load(x_scales + row, mask=is_row, other=0)[None, :]
    if KEEPS_OUTLIERS:
        beside = tl.zeros([OUTPUTS, ROWS], tl.float32)
        for step in range(first, last):
            has_outlier = tl.load(outliers + row * num_steps + step, mask=is_row, other=0).to(tl.int32)
            if tl.max(has_outlier, 0) > 0:
                at = (step * STEP + column)[None, :]
                weight = tl.load(weight_row + at, mask=is_output[:, None] & (at < num_inputs), other=0)
                x_row = x + row.to(tl.int64)[:, None] * x_stride
                values = tl.load(x_row + at, mask=is_row[:, None] & (at < num_inputs), other=0)
                values = tl.where(tl.abs(values.to(tl.float32)) >= OUTLIER, values, 0)
                beside = tl.dot(
                    weight.to(tl.float32).to(values.dtype), tl.trans(values), beside, input_precision="ieee"
                )
        result += beside
    result *= tl.load(scales + output, mask=is_output, other=0)[:, None]
    if HAS_BIAS:
        result += tl.load(bias + output, mask=is_output, other=0)[:, None]
    place = tl.program_id(2).to(tl.int64) * num_rows * num_outputs + row.to(tl.int64)[:, None] * out_stride
    result = tl.trans(result).to(out.dtype.element_ty)
    tl.store(out + place + output[None, :], result, mask=is_row[:, None] & is_output[None, :])
