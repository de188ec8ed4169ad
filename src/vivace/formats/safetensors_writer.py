"""Writing safetensors: the file appears whole or not at all, and its data begins on a cache line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.safetensors import DTYPE_BITS, ENCODING_OF_DTYPE, METADATA_KEY
from vivace.formats.tensor import StoredTensor

_DTYPE_OF_ENCODING = {encoding: dtype for dtype, encoding in ENCODING_OF_DTYPE.items()}
_DTYPE_OF_NUMPY = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_ALIGNMENT = 64

WritableTensor = StoredTensor | NDArray[Any]


def write_safetensors(
    path: str | PathLike[str], tensors: Mapping[str, WritableTensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes dense StoredTensors (f32, f16, bf16) and NumPy arrays under the mapping's names.

    Raises UnsupportedError for another encoding or NumPy type, before anything is written.
    """
    dtypes = {name: _dtype(name, tensor) for name, tensor in tensors.items()}
    # Wide types first, so that every tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-DTYPE_BITS[dtypes[name]], name))
    header = _header(names, tensors, dtypes, metadata)
    with atomic_writer(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            file.write(_data(tensors[name]).data)


def _header(
    names: list[str],
    tensors: Mapping[str, WritableTensor],
    dtypes: dict[str, str],
    metadata: Mapping[str, str] | None,
) -> bytes:
    """The JSON, padded with blanks so that the data behind it starts at a multiple of _ALIGNMENT."""
    fields: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + _num_bytes(tensors[name])
        fields[name] = {"dtype": dtypes[name], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-(8 + len(text)) % _ALIGNMENT)


def _dtype(name: str, tensor: WritableTensor) -> str:
    if isinstance(tensor, StoredTensor):
        dtype, kind = _DTYPE_OF_ENCODING.get(tensor.encoding), tensor.encoding
    else:
        dtype, kind = _DTYPE_OF_NUMPY.get(tensor.dtype.name), tensor.dtype.name
    if dtype is None:
        raise UnsupportedError(f"{name}: safetensors has no type for {kind}; dequantise it, or write it as uint8")
    return dtype


def _num_bytes(tensor: WritableTensor) -> int:
    return int(tensor.data.nbytes if isinstance(tensor, StoredTensor) else tensor.nbytes)


def _data(tensor: WritableTensor) -> NDArray[np.uint8]:
    """The tensor's bytes in order; copied only where they are scattered or big-endian."""
    if isinstance(tensor, StoredTensor):
        return np.ascontiguousarray(tensor.data).reshape(-1)
    little = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8)
