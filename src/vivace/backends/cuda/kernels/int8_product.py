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

from vivace.backends.cuda.kernels.product_tile import ask_for_bytes, byte_tile, store_tile, tile_outputs, tile_rows
from vivace.backends.cuda.kernels.split import FEW_ROWS, Cut, Tiling
from vivace.backends.cuda.kernels.succession import launch_options, overlaps, wait_for_predecessor
from vivace.backends.cuda.kernels.token_codes import OUTLIER, STEP
from vivace.backends.cuda.token_codes import TokenCodes


def tiling_of(num_rows: int, *, keeps_outliers: bool) -> Tiling:
    """Outliers' sums take registers beside the others': tiles of half as many rows."""
    if num_rows > FEW_ROWS:
        return Tiling(128, 64 if keeps_outliers else 128, 8, 3)
    rows = max(8, triton.next_power_of_2(num_rows))
    return Tiling(64, rows, 4, 4 if rows <= 16 else 3)


def int8_product(
    coded: TokenCodes, codes_ND: Tensor, scales_N: Tensor, out_TN: Tensor, bias_N: Tensor | None, num_beside: int
) -> None:
    """Writes the product with contiguous int8 codes and float32 scales to `out_TN`. `num_beside`: see `Cut`."""
    num_rows, num_inputs = coded.codes_TD.shape
    if not num_rows:
        return
    keeps_outliers, num_steps = coded.outliers_TS is not None, triton.cdiv(num_inputs, STEP)
    values_TD = coded.codes_TD if coded.values_TD is None else coded.values_TD
    tiling = tiling_of(num_rows, keeps_outliers=keeps_outliers)
    cut = Cut.of(out_TN, tiling, num_steps, STEP, num_beside)
    multiply_int8[cut.grid](
        values_TD, coded.codes_TD, coded.scales_T, coded.codes_TD if coded.outliers_TS is None else coded.outliers_TS,
        codes_ND, scales_N, cut.out, scales_N if bias_N is None else bias_N,
        num_rows, len(codes_ND), num_inputs, num_steps, cut.steps_per_part, values_TD.stride(0), cut.out.stride(-2),
        KEEPS_OUTLIERS=keeps_outliers, HAS_BIAS=bias_N is not None and cut.is_whole,
        OUTPUTS=tiling.outputs, ROWS=tiling.rows, STEP=STEP, num_warps=tiling.warps, num_stages=tiling.stages,
        **launch_options(codes_ND.device),
    )  # fmt: skip
    cut.finish(out_TN, bias_N)


@triton.jit
def multiply_int8(
    x, x_codes, x_scales, outliers, codes, scales, out, bias,
    num_rows, num_outputs, num_inputs, num_steps, steps_per_part, x_stride, out_stride,
    KEEPS_OUTLIERS: tl.constexpr, HAS_BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A tile of `product_tile`."""
    output, row = tile_outputs(OUTPUTS), tile_rows(ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    first = tl.program_id(2) * steps_per_part
    if overlaps():
        ask_for_bytes(codes, num_outputs, num_inputs, first, OUTPUTS, STEP)
    wait_for_predecessor()
    last = tl.minimum(first + steps_per_part, num_steps)
    total = tl.zeros([OUTPUTS, ROWS], tl.int32)
    for step in range(first, last):
        weight = byte_tile(codes, output, is_output, num_inputs, step, STEP)
        code = byte_tile(x_codes, row, is_row, num_inputs, step, STEP)
        total = tl.dot(weight, tl.trans(code), total, out_dtype=tl.int32)  # which Triton 3.6 does not see in `total`
    result = total.to(tl.float32) * tl.load(x_scales + row, mask=is_row, other=0)[None, :]
    if KEEPS_OUTLIERS:
        beside = tl.zeros([OUTPUTS, ROWS], tl.float32)
        for step in range(first, last):
            has_outlier = tl.load(outliers + row * num_steps + step, mask=is_row, other=0).to(tl.int32)
            if tl.max(has_outlier, 0) > 0:
                weight = byte_tile(codes, output, is_output, num_inputs, step, STEP)
                at = (step * STEP + tl.arange(0, STEP))[None, :]
                x_row = x + row.to(tl.int64)[:, None] * x_stride
                values = tl.load(x_row + at, mask=is_row[:, None] & (at < num_inputs), other=0)
                values = tl.where(tl.abs(values.to(tl.float32)) >= OUTLIER, values, 0)
                beside = tl.dot(
                    weight.to(tl.float32).to(values.dtype), tl.trans(values), beside, input_precision="ieee"
                )
        result += beside
    result *= tl.load(scales + output, mask=is_output, other=0)[:, None]
    store_tile(result, out, bias, output, row, num_outputs, num_rows, out_stride, HAS_BIAS)
