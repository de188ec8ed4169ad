"""Reference dequantise of ggml's k-quants: super-blocks of 256 elements with quantised scales (ggml-quants.c).

Each function takes whole blocks, uint8 [B, bytes of a block], and gives float32 [B, 256].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.formats.block_quants import half_column

_LOW_HIGH = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
_BITS_8 = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1)
_BIT_PAIRS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


def dequantize_q4_k(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, dmin, 12 bytes of scales and mins, 128 bytes of nibbles: w = d * sc * q - dmin * m, 32 elements a scale."""
    scale, minimum = _scales_and_mins(blocks)
    q = _nibbles(blocks[:, 16:], 32).reshape(len(blocks), 8, 32)
    return (scale * q.astype(np.float32) - minimum).reshape(len(blocks), 256)


def dequantize_q5_k(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As q4_k, with the fifth bits in 32 bytes before the nibbles: bit i of byte j belongs to element 32 i + j."""
    scale, minimum = _scales_and_mins(blocks)
    low = _nibbles(blocks[:, 48:], 32).reshape(len(blocks), 8, 32)
    high = (blocks[:, 16:48].reshape(-1, 1, 1, 32) >> _BITS_8 & 1).reshape(len(blocks), 8, 32)
    q = low | high << 4
    return (scale * q.astype(np.float32) - minimum).reshape(len(blocks), 256)


def dequantize_q6_k(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d: w = d * sc * (q - 32), 16 a scale."""
    low = _nibbles(blocks[:, :128], 64).reshape(len(blocks), 256)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _BIT_PAIRS & 3).reshape(len(blocks), 256)
    q = (low | high << 4).view(np.int8) - np.int8(32)
    scale = half_column(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (scale[:, :, None] * q.reshape(-1, 16, 16).astype(np.float32)).reshape(len(blocks), 256)


def _nibbles(packed: NDArray[np.uint8], run: int) -> NDArray[np.uint8]:
    """Runs of `run` bytes: first all low nibbles of a run, then all its high ones. [B, bytes / run, 2, run]."""
    return packed.reshape(len(packed), -1, 1, run) >> _LOW_HIGH & np.uint8(15)


def _scales_and_mins(blocks: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """d * sc and dmin * m, each [B, 8, 1]. Twelve bytes hold eight 6-bit scales and eight 6-bit mins: bytes 0-3
    the first four scales, 4-7 the first four mins, 8-11 the low nibbles of the other scales (low) and mins (high),
    whose top two bits are the top two bits of bytes 0-3 and 4-7.
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=1)
    mins = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=1)
    scale = half_column(blocks, 0) * scales.astype(np.float32)
    minimum = half_column(blocks, 2) * mins.astype(np.float32)
    return scale[:, :, None], minimum[:, :, None]
