"""A tensor as a file stores it: bytes with a shape and an encoding. Views only; nothing is copied or decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import EngineError

# encoding -> (elements a block, bytes a block). Blocks run along the last dimension. Those of tensors in files:
FILE_ENCODINGS: dict[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}

# What quantised checkpoints become (stored_matrix.py). int4_g*: f16 scale, u8 zero point, a byte 0, nibbles by 32
# inputs as in q4_0; value = scale * (code - zero). int8_channel (activations int8 with a scale a token) and
# int8_outlier (LLM.int8: activations of 6.0 and more stay floats): an f32 scale in front of the row, then int8 codes.
# fp8_channel: the same with e4m3 numbers, weights and activations (fp8_rows.py).
ENCODINGS: dict[str, tuple[int, int]] = FILE_ENCODINGS | {
    "int4_g32": (32, 20),
    "int4_g64": (64, 36),
    "int4_g128": (128, 68),
    "int8_channel": (1, 1),
    "int8_outlier": (1, 1),
    "fp8_channel": (1, 1),
}
ROW_HEADER_BYTES: dict[str, int] = {"int8_channel": 4, "int8_outlier": 4, "fp8_channel": 4}


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """`data` is uint8 [rows, bytes of a row] (a vector has one row); blocks never cross a row's end.

    `input_order` is a matrix's, where its columns are not stored in the order of inputs: stored column j holds input
    `input_order[j]` (GPTQ's activation order, sorted so that a group's columns lie together).
    """

    name: str
    encoding: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    input_order: NDArray[np.int32] | None = None

    @property
    def num_rows(self) -> int:
        return int(self.data.shape[0])

    @property
    def num_columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    def select_rows(self, rows: slice | Sequence[int] | NDArray[np.intp]) -> StoredTensor:
        """Rows by slice (a view) or by index (a copy). Any encoding, because blocks stay inside rows."""
        if len(self.shape) != 2:
            raise EngineError(f"{self.name}: select_rows needs a matrix, not shape {self.shape}")
        data = self.data[rows]
        return StoredTensor(self.name, self.encoding, (data.shape[0], self.shape[1]), data, self.input_order)


def row_bytes(encoding: str, num_columns: int) -> int:
    """Bytes of one row of `num_columns` elements; the count must be a multiple of the encoding's block."""
    block_elements, block_bytes = ENCODINGS[encoding]
    if num_columns % block_elements:
        raise EngineError(f"{encoding} rows hold multiples of {block_elements} elements, not {num_columns}")
    return ROW_HEADER_BYTES.get(encoding, 0) + num_columns // block_elements * block_bytes
