"""activation(gate) * up of a feed-forward layer whose two halves lie side by side (Shazeer, 2020)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vivace.backends.cuda.kernels.succession import launch_options, wait_for_predecessor
from vivace.ops.program import Activation

COLUMNS = 1024  # of a program
OPTIONS: dict[str, object] = {"enable_fp_fusion": False}  # as in `coded_gate`, which gives the same bits


def gated_activation(gate_up_T2F: Tensor, activation: Activation) -> Tensor:
    """[T, F] in the input's type, of [T, 2F] with unit stride along a row. Computed in float32."""
    num_rows, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
    out_TF = torch.empty((num_rows, width), dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
    if num_rows:
        gate[(num_rows, triton.cdiv(width, COLUMNS))](
            gate_up_T2F, out_TF, gate_up_T2F.stride(0), width, ACTIVATION=activation, COLUMNS=COLUMNS, **OPTIONS,
            **launch_options(gate_up_T2F.device),
        )  # fmt: skip
    return out_TF


@triton.jit
def gate(gate_up, out, stride, width, ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr):
    """Program (row, run of columns)."""
    wait_for_predecessor()
    row, run = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = run * COLUMNS + tl.arange(0, COLUMNS)
    is_there = column < width
    x = tl.load(gate_up + row * stride + column, mask=is_there, other=0).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + column, mask=is_there, other=0).to(tl.float32)
    tl.store(out + row * width + column, gated(x, up, ACTIVATION).to(out.dtype.element_ty), mask=is_there)


@triton.jit
def gated(x, up, ACTIVATION: tl.constexpr):
    """activation(x) * up of float32 numbers."""
    if ACTIVATION == "silu":
        share = _sigmoid(x)
    elif ACTIVATION == "gelu":
        share = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
    else:  # gelu_tanh: (1 + tanh(z)) / 2 = sigmoid(2 z)
        share = _sigmoid(2 * 0.7978845608028654 * (x + 0.044715 * x * x * x))
    return x * share * up


@triton.jit
def _sigmoid(x):
    """Without overflow for large negative x."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0, small, 1.0) / (1 + small)
