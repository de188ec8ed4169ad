"""RMSNorm whose rows are rounded to 8 bits for the products behind it, with the sum of a residual before it where one
is given: one launch, and the norm itself goes to memory only where outliers among it are multiplied too.

To the bit what `rms_norm` and then `token_codes` give: the norm is rounded to the rows' type, and that to 8 bits.
Both sum squares in the same order: as many columns, as many warps, the same columns to a thread (`store_codes`).

Shape letters: T rows, D columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.rms_norm import FEWEST_COLUMNS, normed_columns, row_options
from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor
from vivace.backends.cuda.kernels.token_codes import STEP, empty_codes, store_codes
from vivace.backends.cuda.token_codes import TokenCodes


def coded_norm(
    x_TD: Tensor, residual_TD: Tensor | None, weight: Tensor, eps: float, encoding: str
) -> tuple[Tensor | None, TokenCodes]:
    """x + residual, rounded to x's type, and the norm of that as a product with `encoding` reads it. Rows have unit
    stride; weight: float32 [D]."""
    num_rows, width = x_TD.shape
    has_residual, keeps_outliers = residual_TD is not None, encoding == "int8_outlier"
    sum_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device) if has_residual else None
    normed_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device) if keeps_outliers else x_TD
    coded = empty_codes(normed_TD, encoding)
    columns = max(FEWEST_COLUMNS, triton.next_power_of_2(width))
    if num_rows:
        normalize_and_code[(num_rows,)](
            x_TD, x_TD if residual_TD is None else residual_TD, weight, x_TD if sum_TD is None else sum_TD, normed_TD,
            coded.codes_TD, coded.scales_T, coded.codes_TD if coded.outliers_TS is None else coded.outliers_TS,
            x_TD.stride(0), x_TD.stride(0) if residual_TD is None else residual_TD.stride(0),
            triton.cdiv(width, STEP), eps,
            WIDTH=width, COLUMNS=columns, STEP=STEP, HAS_RESIDUAL=has_residual, KEEPS_OUTLIERS=keeps_outliers,
            IS_FLOAT=encoding == "fp8_channel", **row_options(columns),
            **launch_options(x_TD.device),
        )  # fmt: skip
    return sum_TD, coded


@triton.jit
def normalize_and_code(
    x, residual, weight, total, out, codes, scales, outliers, x_stride, residual_stride, num_steps, eps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    KEEPS_OUTLIERS: tl.constexpr, IS_FLOAT: tl.constexpr,
):  # fmt: skip
    """Program: a row."""
    wait_for_predecessor()
    row = tl.program_id(0).to(tl.int64)
    normed = normed_columns(
        x + row * x_stride, residual + row * residual_stride, weight, total + row * WIDTH, eps,
        WIDTH, COLUMNS, HAS_RESIDUAL,
    )  # fmt: skip
    column = tl.arange(0, COLUMNS)
    if KEEPS_OUTLIERS:
        tl.store(out + row * WIDTH + column, normed, mask=column < WIDTH)
    RUN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    store_codes(
        normed.to(tl.float32), row, codes, scales, outliers, num_steps,
        WIDTH, COLUMNS, STEP, KEEPS_OUTLIERS, IS_FLOAT, RUN,
    )  # fmt: skip
