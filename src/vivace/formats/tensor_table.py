"""The tensors of one mapped file: names and types from its header, views of its bytes on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike

import numpy as np

from vivace.core.errors import EngineError, ModelFileError
from vivace.formats.tensor import FILE_ENCODINGS, StoredTensor, row_bytes


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
        if self._bytes is None:
            raise EngineError(f"{self._path} is closed")
        if entry.encoding is None:
            reason = f"type {entry.type_name} cannot be a weight; supported are {', '.join(FILE_ENCODINGS)}"
            raise ModelFileError(self._path, reason, field=name)
        if entry.num_bytes == 0:
            raise ModelFileError(self._path, f"shape {entry.shape} has no elements", field=name)
        width = row_bytes(entry.encoding, entry.shape[-1] if entry.shape else 1)
        data = self._bytes[entry.start : entry.start + entry.num_bytes].reshape(-1, width)
        return StoredTensor(name, entry.encoding, entry.shape, data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # Mapping's own would build the tensor
        return name in self._entries

    def entry(self, name: str) -> TensorEntry:
        """What the header says of `name`, of any type. KeyError if there is none."""
        return self._entries[name]

    def close(self) -> None:
        """Lets go of the file. Tensors handed out before stay valid: each keeps the mapping alive."""
        self._bytes = None
