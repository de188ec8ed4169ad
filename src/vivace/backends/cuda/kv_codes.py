"""Levels of a quantised KV cache in torch: `vivace.ops.reference_kv.round_levels`, kept as codes.

Every step is an IEEE operation on float32, so codes and ranges are the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vivace.ops.reference_kv import E4M3_LARGEST, INT4_GROUP

SMALLEST_SCALE = 1e-30


@dataclass(slots=True)
class Levels:
    """`codes` uint8; `scale` and `minimum` bfloat16 with 1 along the axis that they were found on, NaN where an
    element on it was not finite."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor

    def decode(self, dtype: torch.dtype) -> Tensor:
        return self.codes.to(dtype) * self.scale.to(dtype) + self.minimum.to(dtype)


def find_levels(x: Tensor, axis: int, num_levels: int) -> Levels:
    """Each element at the nearest of `num_levels` + 1 levels between the extremes along `axis`."""
    x = x.float()
    low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    finite = torch.isfinite(low) & torch.isfinite(high)
    low, high = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
    minimum = _bfloat16_down(low)
    divisor = torch.full((), float(num_levels), device=x.device)  # a tensor: torch multiplies by a number's inverse
    scale = _bfloat16_up((high - minimum) / divisor)
    scale = torch.where(scale >= SMALLEST_SCALE, scale, 0.0)
    inverse = torch.where(scale > 0, torch.reciprocal(scale), 0.0)
    codes = torch.nan_to_num(torch.round((x - minimum) * inverse)).clamp(0, num_levels)
    scale = torch.where(finite, scale, torch.nan)
    return Levels(codes.to(torch.uint8), scale.bfloat16(), minimum.bfloat16())


def find_e4m3(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of vectors along the last axis: the bits of float8 e4m3 numbers, uint8, and their scales bfloat16 [..., 1], NaN
    where an element was not finite."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(largest)
    divisor = torch.full((), E4M3_LARGEST, device=x.device)
    scale = _bfloat16_up(torch.where(finite, largest, 0.0) / divisor)
    scale = torch.where(scale >= SMALLEST_SCALE, scale, 0.0)
    inverse = torch.where(scale > 0, torch.reciprocal(scale), 0.0)
    codes = (torch.where(finite, x, 0.0) * inverse).to(torch.float8_e4m3fn).view(torch.uint8)
    return codes, torch.where(finite, scale, torch.nan).bfloat16()


def int4_groups(x: Tensor) -> Tensor:
    """[..., K] -> [..., groups, 32]; the last group is filled up with its last element, which moves no extreme."""
    missing = -x.shape[-1] % INT4_GROUP
    if missing:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], dim=-1)
    return x.reshape(*x.shape[:-1], -1, INT4_GROUP)


def pack_nibbles(codes: Tensor) -> Tensor:
    """[..., 2 n] -> [..., n]: element i low, element i + n high."""
    half = codes.shape[-1] // 2
    return codes[..., :half] | codes[..., half:] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def _bfloat16_down(x: Tensor) -> Tensor:
    bits = x.contiguous().view(torch.int32)
    return (torch.where(bits < 0, bits + 0xFFFF, bits) & -0x10000).view(torch.float32)


def _bfloat16_up(x: Tensor) -> Tensor:
    """Of numbers that are not negative."""
    return ((x.contiguous().view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)
