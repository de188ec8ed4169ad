"""Floats of 8 and 16 bits as bits, and what approximate instructions may return."""

from __future__ import annotations

import numpy as np
import torch

SMALLEST_NORMAL = np.float32(2**-126)


def widened(bits: np.ndarray, kind: str) -> np.ndarray:
    """float32 of the bits of `f16` or `bf16`; of a pair, [..., 2], the low half first."""
    if kind.endswith("x2"):
        bits = np.ascontiguousarray(bits)[..., None].view(np.uint16)
    if kind.startswith("bf16"):
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


def narrowed(values: np.ndarray, kind: str) -> np.ndarray:
    """The bits of the nearest `f16` or `bf16`, ties to even, of float32 or float64; of pairs [..., 2] one number."""
    halves = _nearest_bf16(values) if kind.startswith("bf16") else values.astype(np.float16).view(np.uint16)
    return np.ascontiguousarray(halves).view(np.uint32)[..., 0] if kind.endswith("x2") else halves


def _nearest_bf16(values: np.ndarray) -> np.ndarray:
    bits = (_odd_float32(values) if values.dtype == np.float64 else values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _odd_float32(values: np.ndarray) -> np.ndarray:
    """float32 towards zero, with its last bit set where it is not exact: rounding it again rounds `values`."""
    near = values.astype(np.float32)
    bits = near.view(np.uint32) - (np.abs(near) > np.abs(values)).astype(np.uint32)
    return np.where((near == values) | np.isnan(values), near.view(np.uint32), bits | np.uint32(1)).view(np.float32)


E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def e4m3_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of the nearest, the largest for what is beyond it, as `satfinite` asks."""
    limited = torch.from_numpy(np.clip(np.ascontiguousarray(values), -448, 448))  # keeps what is no number
    return limited.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def flushed(values: np.ndarray) -> np.ndarray:
    """float32 with subnormal numbers made zeros of their sign."""
    return np.where(np.abs(values) < SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


def approximate(exact: np.ndarray, units: int) -> np.ndarray:
    """float32 of float64, up to `units` last places off where it is no float32; the same for the same value."""
    near = exact.astype(np.float32)
    bits = near.view(np.uint32)
    scrambled = bits * np.uint32(2654435761) >> np.uint32(16)
    moved = (bits + scrambled % np.uint32(2 * units + 1) - np.uint32(units)).view(np.float32)
    is_moved = (near != exact) & np.isfinite(near) & (np.abs(near) > 4 * SMALLEST_NORMAL)
    return np.where(is_moved & np.isfinite(moved), moved, near)
