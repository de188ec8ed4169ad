"""Writing GGUF version 3: the file appears whole or not at all, and one tensor at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from os import PathLike
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import EngineError, UnsupportedError
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.ggml_types import GGML_TYPES
from vivace.formats.gguf import MAGIC
from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.tensor import StoredTensor, row_bytes

VERSION = 3
ALIGNMENT = 32  # the format's default
TYPE_NUMBERS = {kind.encoding: number for number, kind in GGML_TYPES.items() if kind.encoding is not None}

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64 = 4, 5, 6, 7, 8, 9, 10, 11
_NUMBER_OF_DTYPE = {
    "uint8": 0,
    "int8": 1,
    "uint16": 2,
    "int16": 3,
    "uint32": _UINT32,
    "int32": _INT32,
    "float32": _FLOAT32,
    "bool": _BOOL,
    "uint64": _UINT64,
    "int64": _INT64,
    "float64": 12,
}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor to write. `load` is called when its turn comes; what it gives must be of this encoding and shape."""

    name: str
    encoding: str
    shape: tuple[int, ...]  # (rows, columns): GGUF's dimensions reversed
    load: Callable[[], StoredTensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape[:-1]) * row_bytes(self.encoding, self.shape[-1])


def write_gguf(
    path: str | PathLike[str], metadata: Mapping[str, MetadataValue], tensors: Sequence[GGUFTensor]
) -> None:
    """Writes metadata and tensors in the given order.

    An integer becomes uint32 (int32 where negative, 64 bits where too large), a float float32, an array keeps its
    NumPy type. Raises UnsupportedError for a value or an encoding that GGUF has no type for, before it writes.
    """
    pairs = b"".join(_string(key) + _typed(key, value) for key, value in metadata.items())
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end = _aligned(end + tensor.num_bytes)
    records = b"".join(_record(tensor, offset) for tensor, offset in zip(tensors, offsets, strict=True))
    header = MAGIC + pack("<IQQ", VERSION, len(tensors), len(metadata)) + pairs + records
    with atomic_writer(path) as file:
        file.write(header + bytes(_aligned(len(header)) - len(header)))
        for tensor in tensors:
            data = _data(tensor)
            file.write(data.data)
            file.write(bytes(_aligned(data.nbytes) - data.nbytes))


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return pack("<Q", len(raw)) + raw


def _typed(key: str, value: MetadataValue) -> bytes:
    """A value's type number and its bytes."""
    if isinstance(value, bool):
        return pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return _integer(key, value)
    if isinstance(value, float):
        return pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        return _array(key, value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    raise UnsupportedError(f"{key}: GGUF metadata has no type for {type(value).__name__}")


def _integer(key: str, value: int) -> bytes:
    for number, form, low, high in (
        (_UINT32, "<II", 0, 1 << 32),
        (_INT32, "<Ii", -(1 << 31), 0),
        (_UINT64, "<IQ", 0, 1 << 64),
        (_INT64, "<Iq", -(1 << 63), 0),
    ):
        if low <= value < high:
            return pack(form, number, value)
    raise UnsupportedError(f"{key}: {value} has more than 64 bits")


def _array(key: str, values: NDArray[Any]) -> bytes:
    if values.ndim != 1 or values.dtype.name not in _NUMBER_OF_DTYPE:
        raise UnsupportedError(f"{key}: GGUF has no array of {values.dtype.name} in {values.ndim} dimensions")
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return pack("<IIQ", _ARRAY, _NUMBER_OF_DTYPE[values.dtype.name], len(values)) + little.tobytes()


def _record(tensor: GGUFTensor, offset: int) -> bytes:
    if tensor.encoding not in TYPE_NUMBERS:
        raise UnsupportedError(f"{tensor.name}: GGUF has no type for {tensor.encoding!r}")
    dimensions = tensor.shape[::-1]
    head = _string(tensor.name) + pack("<I", len(dimensions))
    return head + pack(f"<{len(dimensions)}QIQ", *dimensions, TYPE_NUMBERS[tensor.encoding], offset)


def _data(tensor: GGUFTensor) -> NDArray[np.uint8]:
    stored = tensor.load()
    if (stored.encoding, stored.shape, stored.data.nbytes) != (tensor.encoding, tensor.shape, tensor.num_bytes):
        raise EngineError(
            f"{tensor.name}: announced {tensor.encoding} {tensor.shape}, got {stored.encoding} {stored.shape}"
        )
    return np.ascontiguousarray(stored.data).reshape(-1)
