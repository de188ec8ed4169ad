"""Inputs of a product cut into parts that programs sum side by side, and the sum of the parts in a fixed order.

A small matrix has too few tiles of outputs to keep a device busy: a batch of one reads 64 rows x 2048 inputs of int4,
64 KiB, by each of 32 programs, on 132 multiprocessors. So its inputs are cut, by the weight's shape alone.

Shape letters: T rows, N outputs, P parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor

TILE_OUTPUTS = 64
ENOUGH_PROGRAMS = 192  # three for two of an H100's 132 multiprocessors, of which each holds two and more
SMALLEST_PART = 256  # inputs: two steps, of which one is read while the other one is multiplied
MAX_PARTS = 16
FEW_ROWS = 64  # up to which inputs are cut


@dataclass(frozen=True, slots=True)
class Tiling:
    """Outputs and rows of a program's tile, its warps, and the steps between a load and its use."""

    outputs: int
    rows: int
    warps: int
    stages: int


def split_of(num_outputs: int, num_steps: int, step: int) -> int:
    """Parts, a power of two. H100, tiles x parts, tile of 64 outputs: 1B shapes 32 x 8 (q, o, down), 8 x 8 (k, v),
    128 x 2 (gate, up); 8B shapes 64 x 4 (q, o, down), 16 x 16 (k, v), 224 x 1 (gate, up), 2004 x 1 (lm_head)."""
    tiles = -(-num_outputs // TILE_OUTPUTS)
    most = min(MAX_PARTS, num_steps * step // SMALLEST_PART)
    parts = 1
    while tiles * parts < ENOUGH_PROGRAMS and 2 * parts <= most:
        parts *= 2
    return parts


@dataclass(frozen=True, slots=True)
class Cut:
    """How a product's programs share the work. `grid`: runs of outputs, runs of rows, parts of the inputs; `out`:
    where they store, [P, T, N], or the result itself [T, N] where there is one part."""

    grid: tuple[int, int, int]
    steps_per_part: int
    out: Tensor

    @classmethod
    def of(cls, out_TN: Tensor, tiling: Tiling, num_steps: int, step: int, num_beside: int) -> Cut:
        """Up to `FEW_ROWS` rows the inputs are cut in parts, as many as a matrix of `num_beside` outputs needs."""
        num_rows, num_outputs = out_TN.shape
        split = split_of(num_beside, num_steps, step) if num_rows <= FEW_ROWS else 1
        grid = (triton.cdiv(num_outputs, tiling.outputs), triton.cdiv(num_rows, tiling.rows), split)
        return cls(grid, triton.cdiv(num_steps, split), parts_for(out_TN, split))

    @property
    def is_whole(self) -> bool:
        """Whether programs store results, not parts of sums."""
        return self.grid[2] == 1

    def finish(self, out_TN: Tensor, bias_N: Tensor | None) -> None:
        """What is left to do once the programs were launched."""
        if not self.is_whole:
            sum_parts(self.out, out_TN, bias_N)


def parts_for(out_TN: Tensor, split: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where the programs of a product store: [P, T, N], or `out_TN` itself where there is one part."""
    if split == 1:
        return out_TN
    return torch.empty((split, *out_TN.shape), dtype=dtype, device=out_TN.device)


def sum_parts(parts_PTN: Tensor, out_TN: Tensor, bias_N: Tensor | None) -> None:
    """Writes the sum of the parts, the first one first, then the bias."""
    split, num_rows, num_outputs = parts_PTN.shape
    grid = (triton.cdiv(num_outputs, 512), num_rows)
    add_parts[grid](
        parts_PTN, out_TN if bias_N is None else bias_N, out_TN,
        num_outputs, out_TN.stride(0), num_rows * num_outputs,
        HAS_BIAS=bias_N is not None, PARTS=split, COLUMNS=512, num_warps=4, **launch_options(out_TN.device),
    )  # fmt: skip


@triton.jit
def add_parts(
    parts, bias, out, num_outputs, out_stride, part_stride,
    HAS_BIAS: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (run of outputs, row)."""
    wait_for_predecessor()
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1).to(tl.int64)
    is_there = column < num_outputs
    place = parts + row * num_outputs + column
    total = tl.zeros([COLUMNS], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(place + part * tl.cast(part_stride, tl.int64), mask=is_there, other=0)
    if HAS_BIAS:
        total += tl.load(bias + column, mask=is_there, other=0)
    tl.store(out + row * out_stride + column, total.to(out.dtype.element_ty), mask=is_there)
