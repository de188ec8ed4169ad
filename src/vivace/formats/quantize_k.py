"""Encoders of ggml's k-quants with searched scales. The byte layouts are described in k_quants.

Each function takes `Blocks` of shape [32, 8, B] (q6_k: [16, 16, B]) and gives uint8 [B, bytes of a super-block].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.formats.quantize_blocks import half_bytes, packed_nibbles
from vivace.formats.scale_search import Blocks, Floats
from vivace.formats.super_block_search import AffineSuperBlocks, fit_affine_super_blocks, fit_scaled_super_blocks

_CODE_BIAS = 32  # q6_k's codes are stored as 0 .. 63
_BITS_8 = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
_BIT_PAIRS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


def encode_q4_k(blocks: Blocks) -> NDArray[np.uint8]:
    """d, dmin, 6-bit scales and minima, nibbles."""
    fitted = fit_affine_super_blocks(blocks)
    return np.concatenate([_affine_head(fitted), _nibble_rows(_super_block_codes(fitted.codes, 0), 64)], axis=1)


def encode_q5_k(blocks: Blocks) -> NDArray[np.uint8]:
    """As q4_k, with the fifth bits before the nibbles."""
    fitted = fit_affine_super_blocks(blocks)
    codes = _super_block_codes(fitted.codes, 0)
    fifth = np.bitwise_or.reduce((codes.reshape(-1, 8, 32) >> 4) << _BITS_8, axis=1)
    return np.concatenate([_affine_head(fitted), fifth, _nibble_rows(codes, 64)], axis=1)


def encode_q6_k(blocks: Blocks) -> NDArray[np.uint8]:
    """Low nibbles, high bit pairs, signed scales, d."""
    fitted = fit_scaled_super_blocks(blocks)
    codes = _super_block_codes(fitted.codes, _CODE_BIAS)
    pairs = np.bitwise_or.reduce((codes.reshape(-1, 2, 4, 32) >> 4) << _BIT_PAIRS, axis=2).reshape(-1, 64)
    scales = fitted.scales.T.astype(np.int8).view(np.uint8)
    return np.concatenate([_nibble_rows(codes, 128), pairs, scales, half_bytes(fitted.unit)], axis=1)


def _super_block_codes(codes_ESB: Floats, bias: int) -> NDArray[np.uint8]:
    """[B, 256], block after block."""
    codes = (codes_ESB + np.float32(bias)).astype(np.uint8)
    return np.ascontiguousarray(codes.transpose(2, 1, 0)).reshape(codes.shape[2], -1)


def _nibble_rows(codes: NDArray[np.uint8], run: int) -> NDArray[np.uint8]:
    """Runs of `run` codes become run / 2 bytes: the first half low, the second high."""
    return packed_nibbles(codes.reshape(len(codes), -1, run)).reshape(len(codes), -1)


def _affine_head(fitted: AffineSuperBlocks) -> NDArray[np.uint8]:
    """d, dmin and the twelve bytes that hold eight scales and eight minima of six bits."""
    scales, minima = (numbers.T.astype(np.uint8) for numbers in (fitted.scales, fitted.minima))
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | minima[:, 4:] << 4
    return np.concatenate([half_bytes(fitted.unit), half_bytes(fitted.minimum_unit), first, second, third], axis=1)
