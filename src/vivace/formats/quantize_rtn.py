"""Round-to-nearest: float32 weights into stored encodings, bit for bit what ggml's reference writes, and into plain
codes with scales by group or by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.tensor import ENCODINGS, StoredTensor, row_bytes

_CHUNK_ELEMENTS = 1 << 18  # temporaries of a chunk take some 10 MB, whatever the matrix
_BLOCK = 32

RowEncoder = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


def encode(weights: NDArray[np.float32], encoding: str, name: str = "") -> StoredTensor:
    """`weights` of any shape as f32, f16, bf16, q8_0 or q4_0; the last dimension must hold whole blocks.

    Raises UnsupportedError for another encoding, a width that is no multiple of the block, or numbers that the
    encoding cannot hold (NaN, infinity, or too large for its half-precision scale).
    """
    if encoding not in _ROW_ENCODERS:
        raise UnsupportedError(f"cannot encode {name!r} as {encoding!r}; {', '.join(_ROW_ENCODERS)} can be written")
    weights = np.asarray(weights, np.float32)
    width = weights.shape[-1] if weights.ndim else 1
    if width % ENCODINGS[encoding][0]:
        raise UnsupportedError(f"{name!r} is {width} wide; {encoding} needs a multiple of {ENCODINGS[encoding][0]}")
    data = _encode_rows(weights.reshape(-1, width), encoding, name)
    return StoredTensor(name, encoding, weights.shape, data)


def quantize_q8_0(weights_ND: NDArray[np.float32]) -> NDArray[np.uint8]:
    """q8_0 rows, uint8 [N, D / 32 * 34]. D must be a multiple of 32; errors as `encode`."""
    return encode(weights_ND, "q8_0").data


def quantize_q4_0(weights_ND: NDArray[np.float32]) -> NDArray[np.uint8]:
    """q4_0 rows, uint8 [N, D / 32 * 18]. D must be a multiple of 32; errors as `encode`."""
    return encode(weights_ND, "q4_0").data


def quantize_matrix(
    weights_NK: NDArray[np.float32], bits: int, group_size: int, symmetric: bool = True, name: str = ""
) -> QuantizedMatrix:
    """Each weight at the nearest of its group's 2**bits levels. `group_size` inputs share them; -1: all of a row.

    Symmetric levels lie around zero, the largest magnitude half a step beyond the last of one side: scale =
    2 max|w| / (2**bits - 1), zero point 2**(bits - 1), as GPTQ and compressed-tensors have it. Others go from the
    smallest to the largest weight, zero included, which has a level of its own. Raises UnsupportedError for bits
    outside 2 to 8, a group of no inputs, or weights that are not finite.
    """
    num_rows, num_columns = weights_NK.shape
    size = num_columns if group_size == -1 else group_size
    if not 2 <= bits <= 8 or size < 1:
        raise UnsupportedError(
            f"{bits} bits in groups of {group_size}; 2 to 8 bits and groups of 1 input or more can be"
        )
    groups_K = np.arange(num_columns) // size
    codes_NK = np.empty((num_rows, num_columns), np.uint8)
    scales_NG = np.empty((num_rows, -(-num_columns // size)), np.float32)
    zeros_NG = np.empty(scales_NG.shape, np.uint8)
    rows_at_once = max(1, _CHUNK_ELEMENTS // max(1, num_columns))
    for start in range(0, num_rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        weights = np.asarray(weights_NK[rows], np.float32)
        scale, zero = _group_levels(weights, bits, size, symmetric, name)
        levels = np.rint(weights / scale[:, groups_K]) + zero[:, groups_K]
        codes_NK[rows] = levels.clip(0, 2**bits - 1)
        scales_NG[rows], zeros_NG[rows] = scale, zero
    return QuantizedMatrix(bits, size, codes_NK, scales_NG, zeros_NG)


def _group_levels(
    weights: NDArray[np.float32], bits: int, size: int, symmetric: bool, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point of each group. A group of zeros has the scale 1: codes at the zero point are exact."""
    starts = np.arange(0, weights.shape[1], size)
    low = np.minimum(np.minimum.reduceat(weights, starts, axis=1), np.float32(0))
    high = np.maximum(np.maximum.reduceat(weights, starts, axis=1), np.float32(0))
    with np.errstate(over="ignore", invalid="ignore"):
        width = 2 * np.maximum(high, -low) if symmetric else high - low
    if not np.isfinite(width).all():
        raise UnsupportedError(f"{name!r}: weights that are not finite, or near the largest float, have no levels")
    scale: NDArray[np.float32] = (width / np.float32(2**bits - 1)).astype(np.float32, copy=False)
    scale[scale < np.finfo(np.float32).tiny] = 1
    zero = np.rint(-low / scale)
    if symmetric:
        zero[:] = 2 ** (bits - 1)
    return scale, zero


def _encode_rows(weights_ND: NDArray[np.float32], encoding: str, name: str) -> NDArray[np.uint8]:
    num_rows, width = weights_ND.shape
    data = np.empty((num_rows, row_bytes(encoding, width)), np.uint8)
    rows_at_once = max(1, _CHUNK_ELEMENTS // max(1, width))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for start in range(0, num_rows, rows_at_once):
            chunk = np.ascontiguousarray(weights_ND[start : start + rows_at_once])
            if encoding != "f32" and encoding != "bf16" and not _fits(chunk, encoding):
                reason = "NaN, infinity or a magnitude that its half-precision numbers cannot hold"
                raise UnsupportedError(f"{name!r} as {encoding}: the weights have {reason}; use bf16 or f32")
            data[start : start + rows_at_once] = _ROW_ENCODERS[encoding](chunk).reshape(-1, data.shape[1])
    return data


def _fits(weights: NDArray[np.float32], encoding: str) -> bool:
    """Whether every number (f16) or block scale (magnitude / divisor) stays finite in half precision."""
    divisor = {"f16": 1, "q8_0": 127, "q4_0": 8}[encoding]
    return bool(np.isfinite((np.abs(weights).max(initial=0) / divisor).astype(np.float16)))


def _encode_f32(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    return weights.view(np.uint8)


def _encode_f16(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    return weights.astype("<f2").view(np.uint8)


def _encode_bf16(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round to nearest, ties to even; a NaN stays one, made quiet (its payload may lie in the bits cut off)."""
    bits = weights.view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> 16 & 1))
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return (np.where(is_nan, bits | 0x400000, rounded) >> 16).astype("<u2").view(np.uint8)


def _encode_q8_0(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """d = max |w| / 127, q = w / d rounded half away from zero."""
    blocks = weights.reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    magnitude = np.abs(blocks * _inverse(scale))
    whole = np.floor(magnitude)
    whole += np.floor(2 * (magnitude - whole))
    q = np.copysign(whole, blocks).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), q.view(np.uint8)], axis=1)


def _encode_q4_0(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """d = the number of largest magnitude / -8, so that it becomes -8 exactly; q = w / d + 8 rounded, at most 15."""
    blocks = weights.reshape(-1, _BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = largest / np.float32(-8)
    q = (blocks * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    packed = q[:, : _BLOCK // 2] | q[:, _BLOCK // 2 :] << 4
    return np.concatenate([scale.astype("<f2").view(np.uint8), packed], axis=1)


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 where that overflows: such a scale (under 3e-39) is 0 in half precision anyway."""
    inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


_ROW_ENCODERS: dict[str, RowEncoder] = {
    "f32": _encode_f32,
    "f16": _encode_f16,
    "bf16": _encode_bf16,
    "q8_0": _encode_q8_0,
    "q4_0": _encode_q4_0,
}
