"""Few rows times codes of four bits, and six in q6_k, two weights an operation.

A 32-bit register holds the same nibble of two words 16 bits apart: one shift and one and-or make a pair of 16-bit
floats 128 + code of them (float16: 1024 + code), and a packed subtraction takes off the zero point, exactly. Scales
multiply the sums of a group in float32. A group's minimum multiplies the sum of its activations, which is a product
with ones: tensor cores have time for it. With loads and all, ptxas makes 3.8 instructions a weight of
int4_g128 where the general kernel's way through float32 takes 7.1. A multiprocessor of an H100 issues 128 a clock:
34 weights, and its memory brings 28.

The and-or is PTX (`lop3`), because the compiler does not pair 16-bit shifts: it spends two moves on each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vivace.backends.cuda.kernels.code_scales import group_scale, group_zero, k_minimum, step_headers
from vivace.backends.cuda.kernels.product_tile import (
    ask_for_words,
    row_tile,
    store_tile,
    tile_outputs,
    tile_rows,
    word_tile,
)
from vivace.backends.cuda.kernels.succession import overlaps, wait_for_predecessor

AND_OR = 0xEA  # of lop3: a & b | c


@triton.constexpr_function
def pair_assembly(plane: int, is_half: bool) -> str:
    """(word >> 4 plane) & 0x000F000F | the bits of two floats 128 (1024)."""
    ones = 0x64006400 if is_half else 0x43004300
    return f"{{ .reg .b32 t; shr.b32 t, $1, {4 * plane}; lop3.b32 $0, t, {0x000F000F}, {ones}, {AND_OR}; }}"


@triton.constexpr_function
def six_bit_assembly(plane: int, high_plane: int, is_half: bool) -> str:
    """The same with two bits more: plane `high_plane` of eight in $2."""
    ones, up = 0x64006400 if is_half else 0x43004300, 4 - 2 * high_plane
    move = f"shl.b32 u, $2, {up};" if up > 0 else f"shr.b32 u, $2, {-up};"
    low = f"shr.b32 t, $1, {4 * plane}; lop3.b32 t, t, {0x000F000F}, {ones}, {AND_OR};"
    return f"{{ .reg .b32 t; .reg .b32 u; {low} {move} lop3.b32 $0, u, {0x00300030}, t, {AND_OR}; }}"


@triton.jit
def pair_levels(
    word, above, PLANE: tl.constexpr, HIGH_PLANE: tl.constexpr, HIGH_BITS: tl.constexpr, IS_HALF: tl.constexpr
):
    """128 (float16: 1024) + code of a plane, in bfloat16 or float16."""
    if HIGH_BITS:
        level = tl.inline_asm_elementwise(
            six_bit_assembly(PLANE, HIGH_PLANE, IS_HALF),
            "=r,r,r", [word, above], dtype=tl.float16 if IS_HALF else tl.bfloat16, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        level = tl.inline_asm_elementwise(
            pair_assembly(PLANE, IS_HALF),
            "=r,r", [word], dtype=tl.float16 if IS_HALF else tl.bfloat16, is_pure=True, pack=2,
        )  # fmt: skip
    return level


@triton.jit
def multiply_nibbles(
    x, words, high, headers, out, bias, num_rows, num_outputs, num_inputs, num_steps, steps_per_part,
    x_stride, header_stride, num_padded, out_stride,
    KIND: tl.constexpr, ZERO: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr, PLANE: tl.constexpr,
    LOW_BITS: tl.constexpr, HIGH_BITS: tl.constexpr, HEADERS: tl.constexpr, TILE_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr, IS_WHOLE: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """As `coded_product.multiply_codes`, whose arguments it takes."""
    PLANES: tl.constexpr = 16 // LOW_BITS
    TILES: tl.constexpr = STEP // PLANE // PLANES
    IS_HALF: tl.constexpr = x.dtype.element_ty == tl.float16
    EXPONENT: tl.constexpr = 1024 if IS_HALF else 128
    output, row = tile_outputs(OUTPUTS), tile_rows(ROWS)
    stored = tl.minimum(output, num_padded - 1)
    first_of_tile, in_tile = (stored // TILE_ROWS).to(tl.int64) * num_steps * TILE_ROWS, stored % TILE_ROWS
    first = tl.program_id(2) * steps_per_part
    if overlaps():
        last = tl.minimum(first + steps_per_part, num_steps)
        ask_for_words(words, first, last, num_steps, OUTPUTS, TILES, TILE_ROWS, PLANE)
    wait_for_predecessor()
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    part = tl.zeros([OUTPUTS, ROWS], tl.float32)
    ones = tl.full([OUTPUTS, PLANE], 1, x.dtype.element_ty)
    for step in range(first, tl.minimum(first + steps_per_part, num_steps)):
        place = first_of_tile + step * TILE_ROWS
        header = step_headers(headers + step * HEADERS * header_stride + stored, header_stride, HEADERS)
        for tile in tl.static_range(TILES):
            word = word_tile(words, place, in_tile, tile, TILES, TILE_ROWS, PLANE)
            above = word
            if HIGH_BITS:
                above = word_tile(high, place, in_tile, tile // 2, TILES // 2, TILE_ROWS, PLANE)
            for plane in tl.static_range(PLANES):
                level = pair_levels(word, above, plane, tile % 2 * PLANES + plane, HIGH_BITS, IS_HALF)
                zero = group_zero(header, KIND, (tile * PLANES + plane) * PLANE // GROUP, ZERO) + EXPONENT
                level -= zero.to(tl.float32).to(x.dtype.element_ty)[:, None]
                start = step * STEP + (tile * PLANES + plane) * PLANE
                x_tile = tl.trans(row_tile(x, row, start, num_rows, num_inputs, x_stride, IS_WHOLE, PLANE))
                if (tile * PLANES + plane) * PLANE % GROUP == 0:
                    part = tl.zeros([OUTPUTS, ROWS], tl.float32)
                part = tl.dot(level, x_tile, part)
                if (tile * PLANES + plane + 1) * PLANE % GROUP == 0:
                    total += part * group_scale(header, KIND, (tile * PLANES + plane) * PLANE // GROUP)[:, None]
                if KIND == "k":
                    total -= (
                        tl.dot(ones, x_tile) * k_minimum(header, (tile * PLANES + plane) * PLANE // GROUP)[:, None]
                    )
    store_tile(total, out, bias, output, row, num_outputs, num_rows, out_stride, HAS_BIAS)
