"""Small integers packed into 32-bit words, the first in the lowest bits, as GPTQ, AWQ and compressed-tensors do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack_columns(words_RW: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """int32 [R, W] to codes [R, W * 32 / bits], for 4 and 8 bits."""
    rows, width = words_RW.shape
    octets = np.ascontiguousarray(words_RW, "<i4").view(np.uint8).reshape(rows, 4 * width)
    if bits == 8:
        return octets
    codes = np.empty((rows, 4 * width, 2), np.uint8)
    np.bitwise_and(octets, 15, out=codes[..., 0])
    np.right_shift(octets, 4, out=codes[..., 1])
    return codes.reshape(rows, 8 * width)


def pack_columns(codes_RC: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Codes [R, C] to int32 [R, ceil(C * bits / 32)], for 4 and 8 bits; the last word is filled up with zeros."""
    rows, num_columns = codes_RC.shape
    padding = -num_columns % (32 // bits)
    codes = np.pad(codes_RC, ((0, 0), (0, padding)))
    octets = codes if bits == 8 else codes[:, ::2] | codes[:, 1::2] << 4
    return np.ascontiguousarray(octets).view("<i4").reshape(rows, -1).astype(np.int32, copy=False)


def unpack_rows(words_WC: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """int32 [W, C], packed along the first dimension, to codes [C, W * 32 / bits]: the transpose."""
    return unpack_columns(words_WC.T, bits)


def pack_rows(codes_CR: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Codes [C, R] to int32 [ceil(R * bits / 32), C]; `unpack_rows` undoes it."""
    return np.ascontiguousarray(pack_columns(codes_CR, bits).T)
