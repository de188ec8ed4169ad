"""Products of few rows with weights in groups: int4 of 32, 64 or 128 inputs a scale, int8 of 32 (q8_0).

The weight is read once, as the bytes that it is stored in, decoded in registers and rounded to the activations' type;
sums are float32, in an order that depends on the weight's shape alone. Nibbles are stored by 32 inputs, byte j has
inputs j and j + 16; they come out interleaved, and activations are read in that order.

Shape letters: T rows, N outputs, D inputs, G groups of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

INPUTS = 128  # of a step of the loop


def group_product(
    x_TD: Tensor, codes: Tensor, scales_NG: Tensor, zeros_NG: Tensor | None, zero: int, num_outputs: int
) -> Tensor:
    """[T, N] float32, of x_TD [T, D] with unit stride along a row. value = scale * (code - zero).

    codes: uint8 [N, D / 2] of nibbles or int8 [N, D]; scales float16 [N, G]; zeros uint8 [N, G], or `zero` for all.
    """
    num_rows, num_inputs = x_TD.shape
    group = num_inputs // scales_NG.shape[1]
    out_TN = torch.empty((num_rows, num_outputs), dtype=torch.float32, device=x_TD.device)
    rows = min(64, max(16, triton.next_power_of_2(num_rows)))
    outputs = 32 if num_rows <= 16 else 64
    stages = 2 if x_TD.dtype == torch.float32 else 3  # three of 64 float32 rows: 112 KiB shared; sm_89 has 99
    if num_rows:
        multiply_groups[(triton.cdiv(num_outputs, outputs), triton.cdiv(num_rows, rows))](
            x_TD, codes, scales_NG, scales_NG if zeros_NG is None else zeros_NG, out_TN,
            num_rows, num_outputs, num_inputs, x_TD.stride(0), scales_NG.shape[1], float(zero),
            GROUP=group, IS_INT4=codes.dtype == torch.uint8, HAS_ZEROS=zeros_NG is not None,
            ROWS=rows, OUTPUTS=outputs, INPUTS=INPUTS, num_warps=4, num_stages=stages,
        )  # fmt: skip
    return out_TN


@triton.jit
def multiply_groups(
    x, codes, scales, zeros, out, num_rows, num_outputs, num_inputs, x_stride, num_groups, zero,
    GROUP: tl.constexpr, IS_INT4: tl.constexpr, HAS_ZEROS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """Program (run of outputs, run of rows)."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    column = tl.arange(0, INPUTS)
    order = column // 32 * 32 + column % 2 * 16 + column % 32 // 2 if IS_INT4 else column
    GROUPS: tl.constexpr = INPUTS // GROUP
    group = tl.arange(0, GROUPS)
    wide_output = output.to(tl.int64)
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, num_inputs, INPUTS):
        x_tile = tl.load(
            x + row.to(tl.int64)[:, None] * x_stride + (start + order)[None, :],
            mask=is_row[:, None] & (start + order < num_inputs)[None, :], other=0,
        )  # fmt: skip
        if IS_INT4:
            byte = start // 2 + tl.arange(0, INPUTS // 2)
            is_there = is_output[:, None] & (byte < num_inputs // 2)[None, :]
            packed = tl.load(codes + wide_output[:, None] * (num_inputs // 2) + byte[None, :], mask=is_there, other=0)
            levels = tl.interleave(packed & 15, packed >> 4).to(tl.float32)
        else:
            is_there = is_output[:, None] & (start + column < num_inputs)[None, :]
            place = codes + wide_output[:, None] * num_inputs + (start + column)[None, :]
            levels = tl.load(place, mask=is_there, other=0).to(tl.float32)
        place = wide_output[:, None] * num_groups + (start // GROUP + group)[None, :]
        is_there = is_output[:, None] & (start // GROUP + group < num_groups)[None, :]
        scale = tl.load(scales + place, mask=is_there, other=0).to(tl.float32)[:, :, None]
        levels = levels.reshape(OUTPUTS, GROUPS, GROUP)
        if HAS_ZEROS:
            decoded = (levels - tl.load(zeros + place, mask=is_there, other=0).to(tl.float32)[:, :, None]) * scale
        else:
            decoded = (levels - zero) * scale
        weight = decoded.reshape(OUTPUTS, INPUTS).to(x_tile.dtype)
        total = tl.dot(x_tile, tl.trans(weight), total, input_precision="ieee")
    place = out + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(place, total, mask=is_row[:, None] & is_output[None, :])
