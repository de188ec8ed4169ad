"""FP8 W8A8: e4m3 numbers of a token times those of a row, float32 sums, and their two scales
(`ops.reference_activations.round_tokens_fp8`).

From compute capability 8.9 on, tensor cores multiply them as they are. Hopper's keep 14 bits of a running sum: it is
taken out of them and added in float32 after each step of 128 inputs. Before 8.9 both sides are decoded to 16 bits,
which hold them exactly: the same product, at half the rate, of half the bytes of a 16-bit weight.

Shape letters: T rows, N outputs, D inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.int8_product import tiling_of
from vivace.backends.cuda.kernels.paged_tile import e4m3_numbers
from vivace.backends.cuda.kernels.split import FEW_ROWS, parts_for, split_of, sum_parts
from vivace.backends.cuda.kernels.token_codes import STEP, TokenCodes

NATIVE_CAPABILITY = (8, 9)


def multiplies_fp8(device: torch.device) -> bool:
    """Whether the device's tensor cores do. The interpreter can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= NATIVE_CAPABILITY


def fp8_product(
    coded: TokenCodes, codes_ND: Tensor, scales_N: Tensor, out_TN: Tensor, bias_N: Tensor | None, *, is_native: bool
) -> None:
    """Writes the product with contiguous codes uint8 and float32 scales to `out_TN`."""
    num_rows, num_inputs = coded.codes_TD.shape
    num_outputs = len(codes_ND)
    if not num_rows:
        return
    num_steps = triton.cdiv(num_inputs, STEP)
    tiling = tiling_of(num_rows, keeps_outliers=not is_native)
    split = split_of(num_outputs, num_steps, STEP) if num_rows <= FEW_ROWS else 1
    parts = parts_for(out_TN, split)
    grid = (triton.cdiv(num_outputs, tiling.outputs), triton.cdiv(num_rows, tiling.rows), split)
    multiply_fp8[grid](
        coded.codes_TD, coded.scales_T, codes_ND, scales_N, parts, scales_N if bias_N is None else bias_N,
        num_rows, num_outputs, num_inputs, num_steps, triton.cdiv(num_steps, split), parts.stride(-2),
        IS_NATIVE=is_native, HAS_BIAS=bias_N is not None and split == 1,
        OUTPUTS=tiling.outputs, ROWS=tiling.rows, STEP=STEP, num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    if split > 1:
        sum_parts(parts, out_TN, bias_N)


@triton.jit
def multiply_fp8(
    x_codes, x_scales, codes, scales, out, bias,
    num_rows, num_outputs, num_inputs, num_steps, steps_per_part, out_stride,
    IS_NATIVE: tl.constexpr, HAS_BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Program (run of outputs, run of rows, part of the inputs)."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    weight_row = codes + output.to(tl.int64)[:, None] * num_inputs
    code_row = x_codes + row.to(tl.int64)[:, None] * num_inputs
    first = tl.program_id(2) * steps_per_part
    column = tl.arange(0, STEP)
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for step in range(first, tl.minimum(first + steps_per_part, num_steps)):
        at = (step * STEP + column)[None, :]
        weight = tl.load(weight_row + at, mask=is_output[:, None] & (at < num_inputs), other=0)
        code = tl.load(code_row + at, mask=is_row[:, None] & (at < num_inputs), other=0)
        if IS_NATIVE:
            weight, code = weight.to(tl.float8e4nv, bitcast=True), code.to(tl.float8e4nv, bitcast=True)
            total = tl.dot(weight, tl.trans(code), total, max_num_imprecise_acc=STEP)
        else:
            weight, code = e4m3_numbers(weight, tl.bfloat16, False), e4m3_numbers(code, tl.bfloat16, False)
            total = tl.dot(weight, tl.trans(code), total)
    result = total * tl.load(x_scales + row, mask=is_row, other=0)[None, :]
    result *= tl.load(scales + output, mask=is_output, other=0)[:, None]
    if HAS_BIAS:
        result += tl.load(bias + output, mask=is_output, other=0)[:, None]
    place = tl.program_id(2).to(tl.int64) * num_rows * num_outputs + row.to(tl.int64)[:, None] * out_stride
    result = tl.trans(result).to(out.dtype.element_ty)
    tl.store(out + place + output[None, :], result, mask=is_row[:, None] & is_output[None, :])
