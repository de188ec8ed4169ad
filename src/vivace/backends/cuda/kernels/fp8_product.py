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

from vivace.backends.cuda.kernels.paged_tile import e4m3_numbers
from vivace.backends.cuda.kernels.product_tile import ask_for_bytes, byte_tile, store_tile, tile_outputs, tile_rows
from vivace.backends.cuda.kernels.split import FEW_ROWS, Cut, Tiling
from vivace.backends.cuda.kernels.succession import launch_options, overlaps, wait_for_predecessor
from vivace.backends.cuda.kernels.token_codes import STEP
from vivace.backends.cuda.token_codes import TokenCodes

NATIVE_CAPABILITY = (8, 9)


def multiplies_fp8(device: torch.device) -> bool:
    """Whether the device's tensor cores do. The interpreter can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= NATIVE_CAPABILITY


def tiling_of(num_rows: int, *, is_native: bool) -> Tiling:
    """Decoded numbers take twice the registers: tiles of half as many rows."""
    if num_rows > FEW_ROWS:
        return Tiling(128, 128 if is_native else 64, 8, 3)
    rows = max(8, triton.next_power_of_2(num_rows))
    return Tiling(64, rows, 4, 4 if rows <= 16 else 3)


def fp8_product(
    coded: TokenCodes,
    codes_ND: Tensor,
    scales_N: Tensor,
    out_TN: Tensor,
    bias_N: Tensor | None,
    num_beside: int,
    *,
    is_native: bool,
) -> None:
    """Writes the product with contiguous codes uint8 and float32 scales to `out_TN`. `num_beside`: see `Cut`."""
    num_rows, num_inputs = coded.codes_TD.shape
    if not num_rows:
        return
    num_steps, tiling = triton.cdiv(num_inputs, STEP), tiling_of(num_rows, is_native=is_native)
    cut = Cut.of(out_TN, tiling, num_steps, STEP, num_beside)
    multiply_fp8[cut.grid](
        coded.codes_TD, coded.scales_T, codes_ND, scales_N, cut.out, scales_N if bias_N is None else bias_N,
        num_rows, len(codes_ND), num_inputs, num_steps, cut.steps_per_part, cut.out.stride(-2),
        IS_NATIVE=is_native, HAS_BIAS=bias_N is not None and cut.is_whole,
        OUTPUTS=tiling.outputs, ROWS=tiling.rows, STEP=STEP, num_warps=tiling.warps, num_stages=tiling.stages,
        **launch_options(codes_ND.device),
    )  # fmt: skip
    cut.finish(out_TN, bias_N)


@triton.jit
def multiply_fp8(
    x_codes, x_scales, codes, scales, out, bias,
    num_rows, num_outputs, num_inputs, num_steps, steps_per_part, out_stride,
    IS_NATIVE: tl.constexpr, HAS_BIAS: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """A tile of `product_tile`."""
    output, row = tile_outputs(OUTPUTS), tile_rows(ROWS)
    is_output, is_row = output < num_outputs, row < num_rows
    first = tl.program_id(2) * steps_per_part
    if overlaps():
        ask_for_bytes(codes, num_outputs, num_inputs, first, OUTPUTS, STEP)
    wait_for_predecessor()
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for step in range(first, tl.minimum(first + steps_per_part, num_steps)):
        weight = byte_tile(codes, output, is_output, num_inputs, step, STEP)
        code = byte_tile(x_codes, row, is_row, num_inputs, step, STEP)
        if IS_NATIVE:
            weight, code = weight.to(tl.float8e4nv, bitcast=True), code.to(tl.float8e4nv, bitcast=True)
            total = tl.dot(weight, tl.trans(code), total, max_num_imprecise_acc=STEP)
        else:
            weight, code = e4m3_numbers(weight, tl.bfloat16, False), e4m3_numbers(code, tl.bfloat16, False)
            total = tl.dot(weight, tl.trans(code), total)
    result = total * tl.load(x_scales + row, mask=is_row, other=0)[None, :]
    result *= tl.load(scales + output, mask=is_output, other=0)[:, None]
    store_tile(result, out, bias, output, row, num_outputs, num_rows, out_stride, HAS_BIAS)
