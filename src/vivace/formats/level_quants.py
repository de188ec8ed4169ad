"""Reference dequantise of the encodings that quantised checkpoints become: value = scale * (code - zero point).

They hold a `QuantizedMatrix` exactly, up to the f16 rounding of int4 scales. `tensor.py` describes the bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.formats.block_quants import half_column

INT4_HEADER_BYTES = 4  # f16 scale, u8 zero point, 0
NIBBLE_INPUTS = 32  # 16 bytes: byte j holds input j (low) and input j + 16 (high)
INT8_HEADER_BYTES = 4  # f32 scale of the row


def dequantize_int4_blocks(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [B, 4 + g / 2] -> float32 [B, g]."""
    packed = blocks[:, INT4_HEADER_BYTES:].reshape(len(blocks), -1, NIBBLE_INPUTS // 2)
    codes = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(len(blocks), -1)
    levels = codes.astype(np.int16) - blocks[:, 2:3].astype(np.int16)
    return half_column(blocks, 0) * levels.astype(np.float32)


def dequantize_int8_rows(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [N, 4 + K] -> float32 [N, K]."""
    scales_N1 = np.ascontiguousarray(rows[:, :INT8_HEADER_BYTES]).view("<f4")
    return scales_N1 * rows[:, INT8_HEADER_BYTES:].view(np.int8).astype(np.float32)


def encode_int4_blocks(
    codes_NK: NDArray[np.uint8], scales_NB: NDArray[np.float32], zeros_NB: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Rows of int4_g* bytes: K inputs in B blocks of K / B, a multiple of 32. Codes are below 16."""
    num_rows, num_blocks = scales_NB.shape
    halves = codes_NK.reshape(num_rows, num_blocks, -1, 2, NIBBLE_INPUTS // 2)
    nibbles = (halves[:, :, :, 0] | halves[:, :, :, 1] << 4).reshape(num_rows, num_blocks, -1)
    blocks = np.zeros((num_rows, num_blocks, INT4_HEADER_BYTES + nibbles.shape[2]), np.uint8)
    blocks[:, :, :2] = scales_NB.astype("<f2", order="C").view(np.uint8).reshape(num_rows, num_blocks, 2)
    blocks[:, :, 2] = zeros_NB
    blocks[:, :, INT4_HEADER_BYTES:] = nibbles
    return blocks.reshape(num_rows, -1)


def encode_q8_0_blocks(levels_NK: NDArray[np.int8], scales_NB: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of q8_0 bytes with the given scales, one for each 32 inputs."""
    num_rows, num_blocks = scales_NB.shape
    blocks = np.empty((num_rows, num_blocks, 34), np.uint8)
    blocks[:, :, :2] = scales_NB.astype("<f2", order="C").view(np.uint8).reshape(num_rows, num_blocks, 2)
    blocks[:, :, 2:] = levels_NK.view(np.uint8).reshape(num_rows, num_blocks, 32)
    return blocks.reshape(num_rows, -1)


def encode_int8_rows(levels_NK: NDArray[np.int8], scales_N: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of int8_channel and int8_outlier bytes."""
    headers = np.ascontiguousarray(scales_N, "<f4").view(np.uint8).reshape(-1, INT8_HEADER_BYTES)
    return np.concatenate([headers, levels_NK.view(np.uint8)], axis=1)
