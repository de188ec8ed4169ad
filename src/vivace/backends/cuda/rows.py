"""Operations that work row by row: `vivace.ops.reference` in torch. They compute in the precision's wide type.

Shape letters: T rows, D any width, P rotated pairs of a head, K heads of Medusa.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from vivace.ops.program import Activation


def rms_norm(x_TD: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
    x = x_TD.unflatten(1, (groups, -1))
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    normed: Tensor = x * torch.rsqrt(mean_square + eps) * weight
    return normed.flatten(1)


def rope_table(positions_T: Tensor, inv_freq_P: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """[T, 2P]: cosines, then sines. The angle is rounded to float32."""
    angles_TP = (positions_T[:, None].float() * inv_freq_P).to(dtype)
    return torch.cat([angles_TP.cos(), angles_TP.sin()], dim=1) * scale


def rope(x_TD: Tensor, table_T2P: Tensor, head_dim: int) -> Tensor:
    """Rotates columns i and i + P of each head by the token's i-th angle."""
    num_pairs = table_T2P.shape[1] // 2
    x_THK = x_TD.unflatten(1, (-1, head_dim))
    cos, sin = table_T2P[:, None, :num_pairs], table_T2P[:, None, num_pairs:]
    first, second = x_THK[..., :num_pairs], x_THK[..., num_pairs : 2 * num_pairs]
    parts = [first * cos - second * sin, second * cos + first * sin, x_THK[..., 2 * num_pairs :]]
    return torch.cat(parts, dim=-1).flatten(1)


def gated_activation(gate_up_T2F: Tensor, activation: Activation) -> Tensor:
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=1)
    if activation == "silu":
        return silu(gate_TF) * up_TF
    return gelu(gate_TF, approximate="tanh" if activation == "gelu_tanh" else "none") * up_TF


def softcap(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap)


def head_residuals(x_TD: Tensor, z_TD: Tensor) -> Tensor:
    """[T * K, D]."""
    z_TKD = z_TD.unflatten(1, (-1, x_TD.shape[1]))
    return (x_TD[:, None] + silu(z_TKD)).flatten(0, 1)
