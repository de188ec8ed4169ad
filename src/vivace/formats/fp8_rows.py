"""Rows of 8-bit floats with a scale a row: e4m3 (Micikevicius et al., 2022, arXiv:2209.05433), 448 the largest.

A float32 scale in front of the row, then the bits of e4m3 numbers; value = scale * number.
Shape letters: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.tensor import StoredTensor

ENCODING = "fp8_channel"
HEADER_BYTES = 4
LARGEST = 448.0
LARGEST_CODE = 0x7E
_BITS = np.arange(256, dtype=np.int32)
_FRACTION, _EXPONENT = _BITS & 7, _BITS >> 3 & 15
_SIZE = np.where(_EXPONENT == 0, _FRACTION / 512, (1 + _FRACTION / 8) * 2.0 ** (_EXPONENT - 7))
_SIZE[_BITS & 127 == 127] = np.nan  # there is no infinity
E4M3_NUMBERS: NDArray[np.float32] = np.where(_BITS > 127, -_SIZE, _SIZE).astype(np.float32)  # by code


@dataclass(frozen=True, slots=True, eq=False)
class Fp8Matrix:
    """w[n, k] = scales[n] * the e4m3 number of codes[n, k]."""

    codes_NK: NDArray[np.uint8]
    scales_N: NDArray[np.float32]


def dequantize_fp8_rows(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [N, 4 + K] -> float32 [N, K]."""
    scales_N1 = np.ascontiguousarray(rows[:, :HEADER_BYTES]).view("<f4")
    return scales_N1 * E4M3_NUMBERS[rows[:, HEADER_BYTES:]]


def stored_fp8(name: str, matrix: Fp8Matrix) -> StoredTensor:
    """In `fp8_channel`."""
    headers = np.ascontiguousarray(matrix.scales_N, "<f4").view(np.uint8).reshape(-1, HEADER_BYTES)
    data = np.concatenate([headers, matrix.codes_NK], axis=1)
    return StoredTensor(name, ENCODING, matrix.codes_NK.shape, data)


def quantize_fp8(name: str, weights_NK: NDArray[np.float32]) -> StoredTensor:
    """Each weight at the nearest e4m3 number, the largest of its row at 448. Raises UnsupportedError for weights that
    are not finite."""
    largest_N1 = np.abs(weights_NK).max(axis=1, keepdims=True)
    if not np.isfinite(largest_N1).all():
        raise UnsupportedError(f"{name!r}: weights that are not finite have no levels")
    scales_N1 = largest_N1 / np.float32(LARGEST)
    scales_N1[scales_N1 < np.finfo(np.float32).tiny] = 1
    return stored_fp8(name, Fp8Matrix(nearest_codes(weights_NK / scales_N1), scales_N1[:, 0]))


def nearest_codes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The bits of the nearest e4m3 numbers, ties to even, of finite float32 numbers; beyond 448 those of 448."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    size, magnitude = bits & 0x7FFFFFFF, np.abs(values)
    normal = (size + 0x7FFFF + (size >> 20 & 1) >> 20) - (120 << 3)
    small = np.rint(np.minimum(magnitude, 1) * 512).astype(np.int32)  # below 2^-6: multiples of 2^-9
    codes = np.where(magnitude < 2.0**-6, small, np.minimum(normal, LARGEST_CODE))
    signed: NDArray[np.uint8] = (codes | (bits >> 24 & 0x80)).astype(np.uint8)
    return signed
