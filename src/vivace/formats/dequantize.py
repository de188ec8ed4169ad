"""What every encoding means, in NumPy: slow, obvious, those of files bit for bit what the `gguf` package computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.block_quants import (
    dequantize_q4_0,
    dequantize_q4_1,
    dequantize_q5_0,
    dequantize_q5_1,
    dequantize_q8_0,
)
from vivace.formats.fp8_rows import dequantize_fp8_rows
from vivace.formats.k_quants import dequantize_q4_k, dequantize_q5_k, dequantize_q6_k
from vivace.formats.level_quants import dequantize_int4_blocks, dequantize_int8_rows
from vivace.formats.tensor import ENCODINGS, StoredTensor

_CHUNK_BYTES = 1 << 18  # temporaries are some 30 times this, so they stay in the cache and out of the way


def _dequantize_f32(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f4")


def _dequantize_f16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f2").astype(np.float32)


def _dequantize_bf16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


_BLOCK_FUNCTIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "f32": _dequantize_f32,
    "f16": _dequantize_f16,
    "bf16": _dequantize_bf16,
    "q4_0": dequantize_q4_0,
    "q4_1": dequantize_q4_1,
    "q5_0": dequantize_q5_0,
    "q5_1": dequantize_q5_1,
    "q8_0": dequantize_q8_0,
    "q4_k": dequantize_q4_k,
    "q5_k": dequantize_q5_k,
    "q6_k": dequantize_q6_k,
    "int4_g32": dequantize_int4_blocks,
    "int4_g64": dequantize_int4_blocks,
    "int4_g128": dequantize_int4_blocks,
}
_ROW_FUNCTIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "int8_channel": dequantize_int8_rows,
    "int8_outlier": dequantize_int8_rows,
    "fp8_channel": dequantize_fp8_rows,
}


def dequantize(tensor: StoredTensor) -> NDArray[np.float32]:
    """The tensor's numbers, float32 of `tensor.shape`, columns in the order of inputs; a new array. Scales that are
    not finite give what IEEE says.

    Raises UnsupportedError for an encoding that is not in ENCODINGS.
    """
    if tensor.encoding not in ENCODINGS:
        raise UnsupportedError(f"{tensor.name}: encoding {tensor.encoding!r}; known are {', '.join(ENCODINGS)}")
    num_rows, row_bytes = tensor.data.shape
    weights = np.empty((num_rows, tensor.num_columns), np.float32)
    columns = slice(None) if tensor.input_order is None else tensor.input_order
    rows_at_once = max(1, _CHUNK_BYTES // max(1, row_bytes))
    with np.errstate(all="ignore"):  # an infinite scale times 0 is NaN, and no reason for a warning
        for start in range(0, num_rows, rows_at_once):
            rows = tensor.data[start : start + rows_at_once]
            weights[start : start + rows_at_once, columns] = _dequantize_rows(tensor.encoding, rows)
    return weights.reshape(tensor.shape)


def _dequantize_rows(encoding: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    if encoding in _ROW_FUNCTIONS:
        return _ROW_FUNCTIONS[encoding](rows)
    blocks = rows.reshape(-1, ENCODINGS[encoding][1])
    return _BLOCK_FUNCTIONS[encoding](blocks).reshape(len(rows), -1)
