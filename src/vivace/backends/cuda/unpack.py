"""Codes and headers out of a file's blocks, on any device.

Each function takes whole blocks, uint8 [B, bytes of a block], and gives uint8: codes [B, elements of a block], or the
bytes of the block that hold scales, zero points and minima.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BlockParts:
    """Of one encoding: `header` are the first and the last byte of what is no code; q6_k has it at the end."""

    header: tuple[int, int]
    codes: Callable[[Tensor], Tensor]


def nibbles(packed: Tensor) -> Tensor:
    """[..., 16 bytes] -> [..., 32 codes]: byte j holds code j (low) and j + 16 (high)."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def codes_int4(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 4:].reshape(len(blocks), -1, 16)).flatten(1)


def codes_q4_0(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 2:])


def codes_q4_1(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 4:])


def codes_q5_0(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 6:]) | _bits(blocks[:, 2:6]) << 4


def codes_q5_1(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 8:]) | _bits(blocks[:, 4:8]) << 4


def codes_q8_0(blocks: Tensor) -> Tensor:
    """From 0: level + 128."""
    return blocks[:, 2:] ^ 128


def codes_q4_k(blocks: Tensor) -> Tensor:
    return _long_nibbles(blocks[:, 16:], 32).flatten(1)


def codes_q5_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device).reshape(1, 8, 1)
    high = blocks[:, None, 16:48] >> shifts & 1
    return (_long_nibbles(blocks[:, 48:], 32).reshape(-1, 8, 32) | high << 4).flatten(1)


def codes_q6_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 256)
    return _long_nibbles(blocks[:, :128], 64).reshape(-1, 256) | high << 4


PARTS: dict[str, BlockParts] = {
    "int4_g32": BlockParts((0, 4), codes_int4),
    "int4_g64": BlockParts((0, 4), codes_int4),
    "int4_g128": BlockParts((0, 4), codes_int4),
    "q4_0": BlockParts((0, 2), codes_q4_0),
    "q8_0": BlockParts((0, 2), codes_q8_0),
    "q4_1": BlockParts((0, 4), codes_q4_1),
    "q5_0": BlockParts((0, 2), codes_q5_0),
    "q5_1": BlockParts((0, 4), codes_q5_1),
    "q4_k": BlockParts((0, 16), codes_q4_k),
    "q5_k": BlockParts((0, 16), codes_q5_k),
    "q6_k": BlockParts((192, 210), codes_q6_k),
}


def _bits(packed: Tensor) -> Tensor:
    """[B, n] bytes -> [B, 8 n]: the lowest bit first."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[:, :, None] >> shifts & 1).reshape(len(packed), -1)


def _long_nibbles(packed: Tensor, run: int) -> Tensor:
    """Runs of `run` bytes: first all low nibbles of a run, then all its high ones. [B, runs, 2, run]."""
    runs = packed.reshape(len(packed), -1, run)
    return torch.stack([runs & 15, runs >> 4], dim=2)
