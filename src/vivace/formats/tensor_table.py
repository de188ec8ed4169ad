"""The tensors of one mapped file: names and types from its header, views of its bytes on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import EngineError, ModelFileError
from vivace.formats.tensor import FILE_ENCODINGS, StoredTensor, row_bytes

# NumPy's types of what a file may hold beside weights: packed integers, scales, group numbers.
ARRAY_TYPES = {
    "I64": "<i8",
    "I32": "<i4",
    "I8": "|i1",
    "U8": "|u1",
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "|u1",  # its bits
}


class TensorSource(Protocol):
    """Where a checkpoint's tensors come from."""

    def __getitem__(self, name: str) -> StoredTensor: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def size(self, name: str) -> tuple[str | None, int]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What a header says of a tensor. `encoding` is None for a type that cannot be a weight here.

    `type_name` is the file format's own word (`Q4_K`, `BF16`, `I64`); `start` counts from the file's first byte.
    """

    name: str
    type_name: str
    encoding: str | None
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class TensorTable(Mapping[str, StoredTensor]):
    """Names to zero-copy StoredTensors. Entries were checked against the buffer by whoever parsed the header.

    Every tensor is listed; asking for one of an unsupported type raises ModelFileError naming the type.
    """

    def __init__(self, buffer: memoryview, path: str | PathLike[str], entries: Iterable[TensorEntry]) -> None:
        self._bytes: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = np.frombuffer(buffer, np.uint8)
        self._path = path
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> StoredTensor:
        entry = self._entries[name]
        octets = self._slice(entry)
        if entry.encoding is None:
            reason = f"type {entry.type_name} cannot be a weight; supported are {', '.join(FILE_ENCODINGS)}"
            raise ModelFileError(self._path, reason, field=name)
        if entry.num_bytes == 0:
            raise ModelFileError(self._path, f"shape {entry.shape} has no elements", field=name)
        width = row_bytes(entry.encoding, entry.shape[-1] if entry.shape else 1)
        return StoredTensor(name, entry.encoding, entry.shape, octets.reshape(-1, width))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # Mapping's own would build the tensor
        return name in self._entries

    def entry(self, name: str) -> TensorEntry:
        """What the header says of `name`, of any type. KeyError if there is none."""
        return self._entries[name]

    def size(self, name: str) -> tuple[str | None, int]:
        """Encoding and bytes, by the header."""
        entry = self._entries[name]
        return entry.encoding, entry.num_bytes

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape alone, of any type. KeyError if there is no such tensor."""
        return self._entries[name].shape

    def array(self, name: str) -> NDArray[Any]:
        """The plain numbers of a tensor: a view, but bfloat16 becomes float32. It may be empty.

        Raises ModelFileError if its type is not in ARRAY_TYPES, KeyError if there is no such tensor.
        """
        entry = self._entries[name]
        if entry.type_name not in ARRAY_TYPES:
            reason = f"type {entry.type_name} cannot be read here; supported are {', '.join(ARRAY_TYPES)}"
            raise ModelFileError(self._path, reason, field=name)
        numbers = self._slice(entry).view(ARRAY_TYPES[entry.type_name]).reshape(entry.shape)
        if entry.type_name == "BF16":
            return (numbers.astype("<u4") << np.uint32(16)).view("<f4")
        return numbers

    def _slice(self, entry: TensorEntry) -> NDArray[np.uint8]:
        if self._bytes is None:
            raise EngineError(f"{self._path} is closed")
        return self._bytes[entry.start : entry.start + entry.num_bytes]

    def close(self) -> None:
        """Lets go of the file. Tensors handed out before stay valid: each keeps the mapping alive."""
        self._bytes = None
