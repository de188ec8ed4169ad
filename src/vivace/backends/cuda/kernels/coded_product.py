"""Products with coded weights, decoded in registers: every encoding of `code_layout`, few rows and many.

A program reads tiles of words as they lie in memory and makes 16-bit numbers of them: a shift brings the code to the
top of a float's mantissa, one and-or masks it and gives it the exponent of 2^bits, one fused multiply-add scales and
shifts it, and pairs are rounded. No conversion of an integer, of which a multiprocessor makes 16 a clock where an
H100's memory brings 28 weights of 4 bits. Nothing moves between threads: a word has the size of the numbers that it
becomes, so it is loaded as tensor cores take an operand, and the decoded tile is the first one (out^T = weight x^T),
which Hopper's read from registers. Weights are rounded as decoding the whole matrix to 16 bits would round them.

Sums are float32. Up to 64 rows `split_of` cuts the inputs by the weight's shape alone and a row's sum has the same
order beside any others. More rows take larger tiles and no split: decoding the matrix to 16 bits for cuBLAS would
write and read 4 bytes a weight, 1.3 ps at an H100's 3.35 TB/s where 1024 rows multiply in 2.9 ps at 700 TFLOP/s; here
128 rows share each decoding, whose operations are two thirds of what tensor cores take for them, beside them.

Shape letters: T rows, N outputs, D inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.code_layout import TILE_ROWS, CodeLayout
from vivace.backends.cuda.code_tiles import CodedMatrix
from vivace.backends.cuda.kernels.code_scales import plane_scales, step_headers
from vivace.backends.cuda.kernels.nibble_product import multiply_nibbles
from vivace.backends.cuda.kernels.product_tile import (
    ask_for_words,
    row_tile,
    store_tile,
    tile_outputs,
    tile_rows,
    word_tile,
)
from vivace.backends.cuda.kernels.split import FEW_ROWS, Cut, Tiling
from vivace.backends.cuda.kernels.succession import launch_options, overlaps, wait_for_predecessor

PACKED_ROWS = dict.fromkeys(("int4_g32", "int4_g64", "int4_g128", "q4_0"), FEW_ROWS) | {"q4_k": 16, "q6_k": 16}


def tiling_of(num_rows: int, step: int, plane: int, *, is_wide: bool) -> Tiling:
    """`is_wide`: float32 activations. Stages are what sm_89's 99 KiB of shared memory hold, and sm_90's 227 KiB of a
    tile that it does not read through registers."""
    rows = max(8 if plane == 32 else 16, triton.next_power_of_2(num_rows))  # 16 x 16: four bytes a thread and copy
    if is_wide:
        return Tiling(64, min(32, rows), 4, 2)
    if num_rows > FEW_ROWS:
        return Tiling(128, 128, 8, 3 if step == 128 else 2)
    if rows == FEW_ROWS:  # tiles of 64 outputs would read as many activations from L2 as an H100's reads in all
        return Tiling(128, 64, 8, 3) if step == 128 else Tiling(64, 64, 4, 2)
    # A step of 4 bits is 4 KiB: six stages keep 17 of them under way, where two programs a core of an H100 need 14.
    return Tiling(64, rows, 4, 3 if step > 128 else 6 if rows <= 16 else 4)


def coded_product(x_TD: Tensor, matrix: CodedMatrix, out_TN: Tensor, bias_N: Tensor | None, num_beside: int) -> None:
    """Writes x @ matrix.T + bias to `out_TN`. Unit stride along the rows of both. `num_beside`: see `Cut`."""
    num_rows, num_inputs = x_TD.shape
    if not num_rows:
        return
    layout, num_steps = matrix.layout, matrix.num_steps
    tiling = tiling_of(num_rows, layout.step, layout.plane, is_wide=x_TD.dtype == torch.float32)
    cut, is_whole = Cut.of(out_TN, tiling, num_steps, layout.step, num_beside), num_inputs == num_steps * layout.step
    kernel = multiply_nibbles if is_packed(matrix.encoding, num_rows, x_TD.dtype) else multiply_codes
    kernel[cut.grid](
        x_TD, matrix.words, matrix.high, matrix.headers, cut.out, out_TN if bias_N is None else bias_N,
        num_rows, matrix.num_rows, num_inputs, num_steps, cut.steps_per_part,
        x_TD.stride(0), matrix.headers.stride(1), matrix.num_padded, cut.out.stride(-2),
        **constants_of(layout, tiling, has_bias=bias_N is not None and cut.is_whole, is_whole=is_whole),
        num_warps=tiling.warps, num_stages=tiling.stages, **launch_options(x_TD.device),
    )  # fmt: skip
    cut.finish(out_TN, bias_N)


def constants_of(layout: CodeLayout, tiling: Tiling, *, has_bias: bool, is_whole: bool) -> dict[str, object]:
    """The kernel's compile-time arguments. `is_whole`: inputs are whole steps."""
    return {
        "KIND": layout.headers, "ZERO": layout.zero, "GROUP": layout.group, "STEP": layout.step,
        "PLANE": layout.plane, "LOW_BITS": layout.low_bits, "HIGH_BITS": layout.high_bits,
        "HEADERS": layout.num_headers, "TILE_ROWS": TILE_ROWS, "HAS_BIAS": has_bias, "IS_WHOLE": is_whole,
        "OUTPUTS": tiling.outputs, "ROWS": tiling.rows,
    }  # fmt: skip


def is_packed(encoding: str, num_rows: int, values: torch.dtype) -> bool:
    """Whether `multiply_nibbles` does it. Each group's sums are multiplied by its scale, 16 rows of a group of 16 as
    often as it has weights: small groups and many rows are for the other kernel."""
    most = PACKED_ROWS.get(encoding, 0)
    return values.itemsize == 2 and num_rows <= most


@triton.jit
def multiply_codes(
    x, words, high, headers, out, bias, num_rows, num_outputs, num_inputs, num_steps, steps_per_part,
    x_stride, header_stride, num_padded, out_stride,
    KIND: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, PLANE: tl.constexpr,
    LOW_BITS: tl.constexpr, HIGH_BITS: tl.constexpr, HEADERS: tl.constexpr, TILE_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr, IS_WHOLE: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile of `product_tile`."""
    PLANES: tl.constexpr = 16 // LOW_BITS  # of a word
    TILES: tl.constexpr = STEP // PLANE // PLANES
    HIGH_TILES: tl.constexpr = STEP // PLANE // 8
    BITS: tl.constexpr = LOW_BITS + HIGH_BITS
    LOW_MASK: tl.constexpr = ((1 << LOW_BITS) - 1) << (23 - BITS)
    HIGH_MASK: tl.constexpr = ((1 << HIGH_BITS) - 1) << (23 - HIGH_BITS)
    output, row = tile_outputs(OUTPUTS), tile_rows(ROWS)
    stored = tl.minimum(output, num_padded - 1)
    first_of_tile, in_tile = (stored // TILE_ROWS).to(tl.int64) * num_steps * TILE_ROWS, stored % TILE_ROWS
    first = tl.program_id(2) * steps_per_part
    if overlaps():
        last = tl.minimum(first + steps_per_part, num_steps)
        ask_for_words(words, first, last, num_steps, OUTPUTS, TILES, TILE_ROWS, PLANE)
    wait_for_predecessor()
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for step in range(first, tl.minimum(first + steps_per_part, num_steps)):
        place = first_of_tile + step * TILE_ROWS
        header = step_headers(headers + step * HEADERS * header_stride + stored, header_stride, HEADERS)
        for tile in tl.static_range(TILES):
            word = word_tile(words, place, in_tile, tile, TILES, TILE_ROWS, PLANE).to(tl.int32)
            if HIGH_BITS:
                above = word_tile(high, place, in_tile, tile * PLANES // 8, HIGH_TILES, TILE_ROWS, PLANE).to(tl.int32)
            for plane in tl.static_range(PLANES):
                code = (word << (23 - BITS - LOW_BITS * plane)) & LOW_MASK
                if HIGH_BITS:
                    code |= (above << (23 - HIGH_BITS - HIGH_BITS * ((tile * PLANES + plane) % 8))) & HIGH_MASK
                level = (code | ((127 + BITS) << 23)).to(tl.float32, bitcast=True)  # 2^BITS + code
                scale, shift = plane_scales(header, KIND, (tile * PLANES + plane) * PLANE // GROUP, ZERO, BITS)
                weight = (level * scale[:, None] + shift[:, None]).to(x.dtype.element_ty)
                start = step * STEP + (tile * PLANES + plane) * PLANE
                x_tile = row_tile(x, row, start, num_rows, num_inputs, x_stride, IS_WHOLE, PLANE)
                total = tl.dot(weight, tl.trans(x_tile), total, input_precision="ieee")
    store_tile(total, out, bias, output, row, num_outputs, num_rows, out_stride, HAS_BIAS)
