"""Gated activations rounded to 8 bits for the product behind them: one launch, and they themselves go to memory only
where outliers among them are multiplied too. A row of 14,336 in 16 bits moves 71 KB instead of 127.

To the bit what `gated_activation` and then `token_codes` give: the same operations on each number, none fused into
another; over a row only its largest magnitude and a count, which have no order.

Shape letters: T rows, F activations of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.gated_activation import OPTIONS, gated
from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor
from vivace.backends.cuda.kernels.token_codes import STEP, empty_codes, store_codes
from vivace.backends.cuda.token_codes import TokenCodes
from vivace.ops.program import Activation


def coded_gate(gate_up_T2F: Tensor, activation: Activation, encoding: str) -> TokenCodes:
    """activation(gate) * up, rounded to the input's type, as a product with `encoding` reads it. Unit stride along a
    row."""
    num_rows, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
    keeps_outliers = encoding == "int8_outlier"
    gated_TF = torch.empty((num_rows, width), dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
    coded = empty_codes(gated_TF, encoding)
    columns = max(STEP, triton.next_power_of_2(width))
    if num_rows:
        gate_and_code[(num_rows,)](
            gate_up_T2F, gated_TF, coded.codes_TD, coded.scales_T,
            coded.codes_TD if coded.outliers_TS is None else coded.outliers_TS,
            gate_up_T2F.stride(0), triton.cdiv(width, STEP),
            WIDTH=width, COLUMNS=columns, STEP=STEP, ACTIVATION=activation, KEEPS_OUTLIERS=keeps_outliers,
            IS_FLOAT=encoding == "fp8_channel", **row_options(columns), **launch_options(gate_up_T2F.device),
        )  # fmt: skip
    return coded


def row_options(columns: int) -> dict[str, object]:
    """How a program of so many columns is launched: up to 64 numbers of each half to a thread."""
    return OPTIONS | {"num_warps": min(16, max(1, columns // 512))}


@triton.jit
def gate_and_code(
    gate_up, out, codes, scales, outliers, stride, num_steps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, ACTIVATION: tl.constexpr,
    KEEPS_OUTLIERS: tl.constexpr, IS_FLOAT: tl.constexpr,
):  # fmt: skip
    """Program: a row."""
    wait_for_predecessor()
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_there = column < WIDTH
    x = tl.load(gate_up + row * stride + column, mask=is_there, other=0).to(tl.float32)
    up = tl.load(gate_up + row * stride + WIDTH + column, mask=is_there, other=0).to(tl.float32)
    values = gated(x, up, ACTIVATION).to(gate_up.dtype.element_ty)
    if KEEPS_OUTLIERS:
        tl.store(out + row * WIDTH + column, values, mask=is_there)
    RUN: tl.constexpr = 128 // gate_up.dtype.element_ty.primitive_bitwidth
    store_codes(
        values.to(tl.float32), row, codes, scales, outliers, num_steps,
        WIDTH, COLUMNS, STEP, KEEPS_OUTLIERS, IS_FLOAT, RUN,
    )  # fmt: skip
