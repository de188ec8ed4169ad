"""Encoders of ggml's simple blocks (32 weights, half-precision scale, perhaps an offset) with searched scales.

Each function takes `Blocks` of shape [32, 1, B] and gives uint8 [B, bytes of a block]; the layouts are described in
block_quants.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.formats.scale_search import Blocks, Floats, fit_affine, fit_scale, half


def encode_q4_0(blocks: Blocks) -> NDArray[np.uint8]:
    """d, nibbles of code + 8."""
    scale = half(fit_scale(blocks))
    codes = _octets(blocks, scale, None, 8)
    return np.concatenate([half_bytes(scale[0]), packed_nibbles(codes)], axis=1)


def encode_q5_0(blocks: Blocks) -> NDArray[np.uint8]:
    """d, fifth bits, nibbles of code + 16."""
    scale = half(fit_scale(blocks))
    codes = _octets(blocks, scale, None, 16)
    return np.concatenate([half_bytes(scale[0]), _fifth_bits(codes), packed_nibbles(codes)], axis=1)


def encode_q4_1(blocks: Blocks) -> NDArray[np.uint8]:
    """d, m, nibbles."""
    scale, offset = map(half, fit_affine(blocks, largest_offset=None))
    codes = _octets(blocks, scale, offset, 0)
    return np.concatenate([half_bytes(scale[0]), half_bytes(offset[0]), packed_nibbles(codes)], axis=1)


def encode_q5_1(blocks: Blocks) -> NDArray[np.uint8]:
    """d, m, fifth bits, nibbles."""
    scale, offset = map(half, fit_affine(blocks, largest_offset=None))
    codes = _octets(blocks, scale, offset, 0)
    parts = [half_bytes(scale[0]), half_bytes(offset[0]), _fifth_bits(codes), packed_nibbles(codes)]
    return np.concatenate(parts, axis=1)


def half_bytes(numbers: Floats) -> NDArray[np.uint8]:
    """[B] as the two bytes of half precision, [B, 2]."""
    return numbers.astype("<f2").view(np.uint8).reshape(-1, 2)


def packed_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The low four bits of [.., 2 n]: the first n low in each byte, the others high."""
    n = codes.shape[-1] // 2
    low, high = codes[..., :n] & np.uint8(15), np.left_shift(codes[..., n:], np.uint8(4))
    return low | high


def _octets(blocks: Blocks, scale: Floats, offset: Floats | None, bias: int) -> NDArray[np.uint8]:
    """Codes plus `bias`, [B, 32]."""
    return np.ascontiguousarray((blocks.codes(scale, offset)[:, 0] + np.float32(bias)).astype(np.uint8).T)


def _fifth_bits(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bit i of four bytes is worth 16 in code i."""
    return np.packbits(codes >> 4, axis=1, bitorder="little")
