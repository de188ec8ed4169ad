"""Reference dequantise of ggml's simple blocks: 32 elements, a half-precision scale, perhaps a minimum.

Each function takes whole blocks, uint8 [B, bytes of a block], and gives float32 [B, 32]. Byte i of the nibbles
holds element i (low) and element i + 16 (high).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITS_32 = np.arange(32, dtype=np.uint32)


def dequantize_q4_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, 16 bytes of nibbles: w = d * (q - 8)."""
    q = _nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)
    return half_column(blocks, 0) * q.astype(np.float32)


def dequantize_q4_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, m, 16 bytes of nibbles: w = d * q + m."""
    q = _nibbles(blocks[:, 4:]).astype(np.float32)
    return half_column(blocks, 0) * q + half_column(blocks, 2)


def dequantize_q5_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, 32 fifth bits, 16 bytes of nibbles: w = d * (q - 16)."""
    q = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])).view(np.int8) - np.int8(16)
    return half_column(blocks, 0) * q.astype(np.float32)


def dequantize_q5_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, m, 32 fifth bits, 16 bytes of nibbles: w = d * q + m."""
    q = (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])).astype(np.float32)
    return half_column(blocks, 0) * q + half_column(blocks, 2)


def dequantize_q8_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """d, 32 signed bytes: w = d * q."""
    return half_column(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def half_column(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """The half-precision number at byte `start` of each block, float32 [B, 1]."""
    return blocks[:, start : start + 2].view("<f2").astype(np.float32)


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bit i of the four bytes belongs to element i; here it is worth 16."""
    bits = (packed.view("<u4") >> _BITS_32 & 1).astype(np.uint8)
    return np.left_shift(bits, np.uint8(4))
