"""Random weights in any encoding, made as fast as bytes can be copied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.formats.fp8_rows import nearest_codes
from vivace.formats.tensor import ENCODINGS, ROW_HEADER_BYTES, StoredTensor, row_bytes

STANDARD_DEVIATION = 0.02  # of all weights, about that of trained models
POOL_BLOCKS = 65_521  # a prime: repeating the pool shifts it from row to row, so that no two rows are equal

# For each block encoding: where its half-precision numbers lie, and the value of each for weights around zero with
# the standard deviation 1 when all other bits are random. Uniform q of n levels has the deviation n / sqrt(12);
# k-quants multiply by 6-bit scales (mean 31.5) and centre by a minimum of as many steps as half the levels.
HALVES: dict[str, dict[int, float]] = {
    "q4_0": {0: 0.217},
    "q4_1": {0: 0.217, 2: -7.5 * 0.217},
    "q5_0": {0: 0.108},
    "q5_1": {0: 0.108, 2: -15.5 * 0.108},
    "q8_0": {0: 0.0135},
    "q4_k": {0: 0.0051, 2: 7.5 * 0.0051},
    "q5_k": {0: 0.0026, 2: 15.5 * 0.0026},
    "q6_k": {208: 0.00073},
    "int4_g32": {0: 0.217},
    "int4_g64": {0: 0.217},
    "int4_g128": {0: 0.217},
}
ZERO_POINTS = {"int4_g32": 2, "int4_g64": 2, "int4_g128": 2}  # where the byte lies; 8 is the middle
INT8_STEP = 0.0135  # of int8 rows, as of q8_0
FP8_DEVIATION = 100.0  # of e4m3 numbers, whose largest is 448


class DummyTensors:
    """Matrices in `encoding`, of random bytes from one pool with sane scales. The same seed gives the same bytes."""

    def __init__(self, encoding: str, seed: int) -> None:
        self.encoding = encoding
        self.random = np.random.default_rng(seed)
        self.pools: dict[str, NDArray[np.uint8]] = {}
        self.matrices: dict[tuple[str, tuple[int, ...]], StoredTensor] = {}

    def matrix(self, name: str, shape: tuple[int, ...], encoding: str | None = None) -> StoredTensor:
        """In `encoding` if given, else that of all. Equal shapes of one encoding share their bytes."""
        key = fitting_encoding(encoding or self.encoding, shape[-1]), shape
        if key not in self.matrices:
            num_bytes = row_bytes(key[0], shape[-1])
            data = np.resize(self._pool(key[0]), shape[0] * num_bytes).reshape(shape[0], num_bytes)
            if key[0] in ROW_HEADER_BYTES:
                step = 1 / FP8_DEVIATION if key[0] == "fp8_channel" else INT8_STEP
                data[:, : ROW_HEADER_BYTES[key[0]]] = self._row_scales(shape[0], step)
            self.matrices[key] = StoredTensor(name, key[0], shape, data)
        shared = self.matrices[key]
        return StoredTensor(name, shared.encoding, shape, shared.data)

    def _row_scales(self, num_rows: int, step: float) -> NDArray[np.uint8]:
        """Of either sign: two's complement has one level more below 0."""
        scales = self.random.choice((-1.0, 1.0), (num_rows, 1)) * step * STANDARD_DEVIATION
        return scales.astype("<f4").view(np.uint8)

    def _pool(self, encoding: str) -> NDArray[np.uint8]:
        if encoding not in self.pools:
            if encoding == "fp8_channel":
                numbers = self.random.standard_normal(POOL_BLOCKS, np.float32) * np.float32(FP8_DEVIATION)
                self.pools[encoding] = nearest_codes(numbers)
            elif encoding in ROW_HEADER_BYTES:
                self.pools[encoding] = self.random.integers(0, 256, POOL_BLOCKS, np.uint8)
            else:
                self.pools[encoding] = (
                    self._float_pool(encoding) if encoding in FLOATS else self._block_pool(encoding)
                )
        return self.pools[encoding]

    def _float_pool(self, encoding: str) -> NDArray[np.uint8]:
        values = self.random.standard_normal(POOL_BLOCKS, np.float32) * np.float32(STANDARD_DEVIATION)
        if encoding == "bf16":
            return (values.view(np.uint32) >> np.uint32(16)).astype("<u2").view(np.uint8)
        return values.astype(FLOATS[encoding]).view(np.uint8)

    def _block_pool(self, encoding: str) -> NDArray[np.uint8]:
        block_bytes = ENCODINGS[encoding][1]
        blocks = self.random.integers(0, 256, (POOL_BLOCKS, block_bytes), np.uint8)
        signs = np.ones(POOL_BLOCKS)
        if len(HALVES[encoding]) == 1:  # no minimum to centre by, and two's complement has one level more below 0
            signs = self.random.choice((-1.0, 1.0), POOL_BLOCKS)
        for offset, value in HALVES[encoding].items():
            halves = (signs * value * STANDARD_DEVIATION).astype("<f2")
            blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
        if encoding in ZERO_POINTS:
            blocks[:, ZERO_POINTS[encoding]] = 8
        return blocks.reshape(-1)


FLOATS: dict[str, str] = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}


def fitting_encoding(encoding: str, num_columns: int) -> str:
    """`encoding`, or the next one whose blocks divide a row: q8_0, then bf16."""
    candidates = (encoding, "q8_0", "bf16")
    return next(each for each in candidates if num_columns % ENCODINGS[each][0] == 0)
