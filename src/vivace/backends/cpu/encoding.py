"""Round-to-nearest at load: natively to the encodings that a whole model is brought to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vivace.backends.cpu import _native
from vivace.formats import quantize_rtn
from vivace.formats.dequantize import dequantize
from vivace.formats.tensor import StoredTensor, row_bytes

NATIVE_SOURCES = ("f32", "f16", "bf16")
NATIVE_ENCODINGS = ("q8_0", "q4_0")


def encode(device: _native.Device, tensor: StoredTensor, encoding: str, layouts: Sequence[str]) -> StoredTensor:
    """NumPy takes 8 ns an element for what is 0.5 ns here; what it refuses, and says why, is left to it."""
    native = encoding in NATIVE_ENCODINGS and tensor.encoding in NATIVE_SOURCES and len(tensor.shape) == 2
    if native and tensor.num_columns % 32 == 0 and tensor.data.size:
        data = np.empty((tensor.num_rows, row_bytes(encoding, tensor.num_columns)), np.uint8)
        source, target = layouts.index(tensor.encoding), layouts.index(encoding)
        if _native.encode(device, source, tensor.data, tensor.num_columns, target, data):
            return StoredTensor(tensor.name, encoding, tensor.shape, data)
    return quantize_rtn.encode(dequantize(tensor), encoding, tensor.name)
