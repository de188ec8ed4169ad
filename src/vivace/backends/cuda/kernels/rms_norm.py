"""RMSNorm of column groups, with the sum of a residual before it where one is given."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor

FEWEST_COLUMNS = 128  # of a whole row: what `coded_norm` needs, which sums as this one does


def rms_norm(x_TD: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """[T, D] in x's type: x / sqrt(mean(x^2) + eps) * weight in each of `groups` equal groups of columns.

    x: unit stride along a row; weight: float32 [D / groups]. Computed in float32 (Zhang and Sennrich, 2019).
    """
    return _launch(x_TD, x_TD, weight, eps, groups, has_residual=False)[1]


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + residual, rounded to x's type, and the norm of that: what a layer's end and the next one's begin need."""
    return _launch(x_TD, residual_TD, weight, eps, 1, has_residual=True)


def row_options(columns: int) -> dict[str, object]:
    """How a program of so many columns is launched. Products and sums stay apart: fused into one operation, of one
    rounding, a row's sum of squares could differ between the kernels that make it."""
    return {"num_warps": min(8, max(1, columns // 512)), "enable_fp_fusion": False}


def _launch(
    x_TD: Tensor, residual_TD: Tensor, weight: Tensor, eps: float, groups: int, *, has_residual: bool
) -> tuple[Tensor, Tensor]:
    out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    sum_TD = torch.empty_like(out_TD) if has_residual else out_TD
    width = x_TD.shape[1] // groups
    columns = triton.next_power_of_2(width)
    if groups == 1:
        columns = max(FEWEST_COLUMNS, columns)
    if len(x_TD):
        normalize[(len(x_TD), groups)](
            x_TD, residual_TD, weight, sum_TD, out_TD, x_TD.stride(0), residual_TD.stride(0), out_TD.stride(0), eps,
            WIDTH=width, COLUMNS=columns, HAS_RESIDUAL=has_residual, **row_options(columns),
            **launch_options(x_TD.device),
        )  # fmt: skip
    return sum_TD, out_TD


@triton.jit
def normalize(
    x, residual, weight, total, out, x_stride, residual_stride, out_stride, eps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Program (row, group)."""
    wait_for_predecessor()
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH
    column = tl.arange(0, COLUMNS)
    place = row * out_stride + first
    normed = normed_columns(
        x + row * x_stride + first, residual + row * residual_stride + first, weight, total + place, eps,
        WIDTH, COLUMNS, HAS_RESIDUAL,
    )  # fmt: skip
    tl.store(out + place + column, normed, mask=column < WIDTH)


@triton.jit
def normed_columns(
    x, residual, weight, total, eps, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HAS_RESIDUAL: tl.constexpr
):
    """Of WIDTH columns at `x`, rounded to its type; with `residual` their sum is rounded, stored and normed."""
    column = tl.arange(0, COLUMNS)
    is_there = column < WIDTH
    values = tl.load(x + column, mask=is_there, other=0)
    if HAS_RESIDUAL:
        more = tl.load(residual + column, mask=is_there, other=0)
        values = (values.to(tl.float32) + more.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(total + column, values, mask=is_there)
    wide = values.to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    normed = wide * factor * tl.load(weight + column, mask=is_there, other=0)
    return normed.to(x.dtype.element_ty)
