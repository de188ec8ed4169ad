"""Rotary position embedding (Su et al., 2021) of all heads of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor


def rope(x_TD: Tensor, table_T2P: Tensor, head_dim: int) -> Tensor:
    """[T, H*K] in x's type. `table_T2P`: float32, cosines then sines of each row. Columns i and i + P of a head turn
    by the i-th angle; columns from 2P on pass through. Computed in float32; x has unit stride along a row."""
    out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    num_pairs = table_T2P.shape[1] // 2
    if len(x_TD):
        rotate[(len(x_TD), x_TD.shape[1] // head_dim)](
            x_TD, table_T2P, out_TD, x_TD.stride(0), table_T2P.stride(0), out_TD.stride(0),
            HEAD_DIM=head_dim, DIM=triton.next_power_of_2(head_dim), PAIRS=num_pairs, num_warps=1,
            **launch_options(x_TD.device),
        )  # fmt: skip
    return out_TD


@triton.jit
def rotated(vector, table, is_there, DIM: tl.constexpr, PAIRS: tl.constexpr):
    """float32 [DIM] of one head at `vector`, by the angles at `table`."""
    dim = tl.arange(0, DIM)
    x = tl.load(vector + dim, mask=is_there, other=0).to(tl.float32)
    is_turned = (dim < 2 * PAIRS) & is_there
    partner = tl.where(dim < PAIRS, dim + PAIRS, dim - PAIRS)
    other = tl.load(vector + partner, mask=is_turned, other=0).to(tl.float32)
    cos = tl.load(table + dim % PAIRS, mask=is_turned, other=1)
    sin = tl.load(table + PAIRS + dim % PAIRS, mask=is_turned, other=0)
    return x * cos + tl.where(dim < PAIRS, -other, other) * sin


@triton.jit
def rotate(
    x, table, out, x_stride, table_stride, out_stride, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAIRS: tl.constexpr
):
    """Program (row, head)."""
    wait_for_predecessor()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dim = tl.arange(0, DIM)
    is_there = dim < HEAD_DIM
    result = rotated(x + row * x_stride + head * HEAD_DIM, table + row * table_stride, is_there, DIM, PAIRS)
    tl.store(out + row * out_stride + head * HEAD_DIM + dim, result.to(out.dtype.element_ty), mask=is_there)
