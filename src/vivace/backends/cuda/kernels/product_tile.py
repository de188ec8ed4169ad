"""What the product kernels do alike: a program's place in the grid, 8-bit tiles, scales, and how results are stored.

Program (run of outputs, run of rows, part of the inputs), as `split.Cut` makes the grid. Tiles are [outputs, rows]:
weights are the first operand.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vivace.backends.cuda.kernels.succession import AHEAD, LINE_BYTES, ask_for


@triton.jit
def tile_outputs(OUTPUTS: tl.constexpr):
    """Of this program."""
    return tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)


@triton.jit
def tile_rows(ROWS: tl.constexpr):
    """Of this program."""
    return tl.program_id(1) * ROWS + tl.arange(0, ROWS)


@triton.jit
def byte_tile(codes, at, is_there, num_inputs, step, STEP: tl.constexpr):
    """[outputs or rows, STEP] of codes of one byte: `at` numbers their rows, contiguous of `num_inputs`."""
    column = (step * STEP + tl.arange(0, STEP))[None, :]
    place = at.to(tl.int64)[:, None] * num_inputs + column
    return tl.load(codes + place, mask=is_there[:, None] & (column < num_inputs), other=0)


@triton.jit
def ask_for_bytes(codes, num_rows, num_inputs, first, ROWS: tl.constexpr, STEP: tl.constexpr):
    """The first steps of codes of one byte that `byte_tile` loads, from step `first` on: a line of each
    of this program's ROWS rows."""
    line = tl.arange(0, AHEAD)
    row = tl.minimum(tl.program_id(0) * ROWS + line % ROWS, num_rows - 1).to(tl.int64)
    column = tl.minimum((first + line // ROWS) * STEP, num_inputs - 1)
    ask_for(codes + row * num_inputs + column)


@triton.jit
def word_tile(words, first, in_tile, tile, TILES: tl.constexpr, TILE_ROWS: tl.constexpr, PLANE: tl.constexpr):
    """[outputs, PLANE] words of a step's tile (`code_layout`). `first`: of the output's run of TILE_ROWS rows and the
    step, counted in rows of TILES tiles each; `in_tile`: the output within its run."""
    place = (first * TILES + tile * TILE_ROWS + in_tile) * PLANE
    return tl.load(words + place[:, None] + tl.arange(0, PLANE)[None, :])


@triton.jit
def ask_for_words(
    words, first, last, num_steps,
    OUTPUTS: tl.constexpr, TILES: tl.constexpr, TILE_ROWS: tl.constexpr, PLANE: tl.constexpr,
):  # fmt: skip
    """The first words of this program's steps `first` to `last`, which lie in one run; a last part may have none."""
    LINE: tl.constexpr = LINE_BYTES // 2
    STEP_LINES: tl.constexpr = TILES * TILE_ROWS * PLANE // LINE
    start = (tl.program_id(0) * OUTPUTS // TILE_ROWS).to(tl.int64) * num_steps + tl.minimum(first, num_steps - 1)
    line = tl.minimum(tl.arange(0, AHEAD), tl.maximum(last - first, 1) * STEP_LINES - 1)
    ask_for(words + (start * STEP_LINES + line) * LINE)


@triton.jit
def row_tile(x, row, start, num_rows, num_inputs, x_stride, IS_WHOLE: tl.constexpr, PLANE: tl.constexpr):
    """[rows, PLANE] of the activations from input `start` on. IS_WHOLE: all of these inputs exist."""
    at = (start + tl.arange(0, PLANE))[None, :]
    is_row = (row < num_rows)[:, None]
    is_there = is_row if IS_WHOLE else is_row & (at < num_inputs)
    return tl.load(x + row.to(tl.int64)[:, None] * x_stride + at, mask=is_there, other=0)


@triton.jit
def store_tile(total, out, bias, output, row, num_outputs, num_rows, out_stride, HAS_BIAS: tl.constexpr):
    """Adds the bias and writes [outputs, rows] to the program's part of `out`, [parts, rows, outputs]."""
    is_output = output < num_outputs
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0)[:, None]
    place = tl.program_id(2).to(tl.int64) * num_rows * num_outputs + row.to(tl.int64)[:, None] * out_stride
    result = tl.trans(total).to(out.dtype.element_ty)
    tl.store(out + place + output[None, :], result, mask=(row < num_rows)[:, None] & is_output[None, :])
