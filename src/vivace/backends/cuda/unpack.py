"""Rows of a file's block encodings as numbers: `vivace.formats.dequantize` for torch tensors, on any device.

Each function takes whole blocks, uint8 [B, bytes of a block], and gives float32 [B, elements of a block].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def nibbles(packed: Tensor) -> Tensor:
    """[..., 16 bytes] -> [..., 32 codes]: byte j holds code j (low) and j + 16 (high)."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def unpack_q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * nibbles(blocks[:, 4:]).float() + _half(blocks, 2)


def unpack_q5_0(blocks: Tensor) -> Tensor:
    codes = nibbles(blocks[:, 6:]) | _bits(blocks[:, 2:6]) << 4
    return _half(blocks, 0) * (codes.float() - 16)


def unpack_q5_1(blocks: Tensor) -> Tensor:
    codes = nibbles(blocks[:, 8:]) | _bits(blocks[:, 4:8]) << 4
    return _half(blocks, 0) * codes.float() + _half(blocks, 2)


def unpack_q4_k(blocks: Tensor) -> Tensor:
    scale, minimum = _scales_and_minima(blocks)
    codes = _long_nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32)
    return (scale * codes.float() - minimum).reshape(-1, 256)


def unpack_q5_k(blocks: Tensor) -> Tensor:
    scale, minimum = _scales_and_minima(blocks)
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device).reshape(1, 8, 1)
    high = blocks[:, None, 16:48] >> shifts & 1
    codes = _long_nibbles(blocks[:, 48:], 32).reshape(-1, 8, 32) | high << 4
    return (scale * codes.float() - minimum).reshape(-1, 256)


def unpack_q6_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 256)
    codes = _long_nibbles(blocks[:, :128], 64).reshape(-1, 256) | high << 4
    scale = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scale[:, :, None] * (codes.reshape(-1, 16, 16).float() - 32)).reshape(-1, 256)


# encoding -> (elements a block, function). The others have planes of their own, see `matrix`.
BLOCKS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "q4_1": (32, unpack_q4_1),
    "q5_0": (32, unpack_q5_0),
    "q5_1": (32, unpack_q5_1),
    "q4_k": (256, unpack_q4_k),
    "q5_k": (256, unpack_q5_k),
    "q6_k": (256, unpack_q6_k),
}


def _half(blocks: Tensor, start: int) -> Tensor:
    """The half-precision number at byte `start` of each block, float32 [B, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _bits(packed: Tensor) -> Tensor:
    """[B, n] bytes -> [B, 8 n]: the lowest bit first."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] >> shifts & 1).reshape(len(packed), -1)


def _long_nibbles(packed: Tensor, run: int) -> Tensor:
    """Runs of `run` bytes: first all low nibbles of a run, then all its high ones. [B, runs, 2, run]."""
    runs = packed.reshape(len(packed), -1, run)
    return torch.stack([runs & 15, runs >> 4], dim=2)


def _scales_and_minima(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """d * sc and dmin * m of q4_k and q5_k, each [B, 8, 1]; `vivace.formats.k_quants` says how 6 bits are packed."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, third & 15 | first >> 2 & 48], dim=1)
    minima = torch.cat([second & 63, third >> 4 | second >> 2 & 48], dim=1)
    scale, minimum = _half(blocks, 0) * scales.float(), _half(blocks, 2) * minima.float()
    return scale[:, :, None], minimum[:, :, None]
