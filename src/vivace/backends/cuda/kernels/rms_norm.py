"""RMSNorm of column groups, with the sum of a residual before it where one is given."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x_TD: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """[T, D] in x's type: x / sqrt(mean(x^2) + eps) * weight in each of `groups` equal groups of columns.

    x: unit stride along a row; weight: float32 [D / groups]. Computed in float32 (Zhang and Sennrich, 2019).
    """
    return _launch(x_TD, x_TD, weight, eps, groups, has_residual=False)[1]


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + residual, rounded to x's type, and the norm of that: what a layer's end and the next one's begin need."""
    return _launch(x_TD, residual_TD, weight, eps, 1, has_residual=True)


def _launch(
    x_TD: Tensor, residual_TD: Tensor, weight: Tensor, eps: float, groups: int, *, has_residual: bool
) -> tuple[Tensor, Tensor]:
    out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    sum_TD = torch.empty_like(out_TD) if has_residual else out_TD
    width = x_TD.shape[1] // groups
    columns = triton.next_power_of_2(width)
    if len(x_TD):
        normalize[(len(x_TD), groups)](
            x_TD, residual_TD, weight, sum_TD, out_TD, x_TD.stride(0), residual_TD.stride(0), out_TD.stride(0), eps,
            WIDTH=width, COLUMNS=columns, HAS_RESIDUAL=has_residual, num_warps=min(8, max(1, columns // 512)),
        )  # fmt: skip
    return sum_TD, out_TD


@triton.jit
def normalize(
    x, residual, weight, total, out, x_stride, residual_stride, out_stride, eps,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Program (row, group)."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, COLUMNS)
    is_there = column < WIDTH
    place = group * WIDTH + column
    values = tl.load(x + row * x_stride + place, mask=is_there, other=0)
    if HAS_RESIDUAL:
        more = tl.load(residual + row * residual_stride + place, mask=is_there, other=0)
        values = (values.to(tl.float32) + more.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(total + row * out_stride + place, values, mask=is_there)
    wide = values.to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    normed = wide * factor * tl.load(weight + column, mask=is_there, other=0)
    tl.store(out + row * out_stride + place, normed.to(out.dtype.element_ty), mask=is_there)
