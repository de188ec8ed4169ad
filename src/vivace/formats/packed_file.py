"""A file of packed matrices: a manifest with a checksum for each, then their bytes, as a backend reads them.

    8 bytes   MAGIC
    8 bytes   length of the manifest, little-endian
    32 bytes  SHA-256 of the manifest
    ...       the manifest: JSON {"key": ..., "matrices": [[the fields of PackedEntry], ...]}
    ...       the matrices, each at a multiple of 4,096 bytes from the start of the file

What a checksum sums is the backend's business, which verifies it when it reads a matrix.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError
from vivace.formats.atomic_file import atomic_writer

MAGIC = b"VIVPACK\x01"
ALIGNMENT = 4096
MAX_MANIFEST_BYTES = 1 << 26
CHUNK_BYTES = 16 << 20
_HEAD_BYTES = 48


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """Where a packed matrix [rows, columns] lies in a file and how its bytes are checked."""

    name: str
    layout: str
    rows: int
    columns: int
    offset: int
    num_bytes: int
    checksum: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A packed matrix that is to be written."""

    name: str
    layout: str
    rows: int
    columns: int
    checksum: int
    data: NDArray[np.uint8]


class PackedFile:
    """An open file of packed matrices; `entries` by name. The matrices themselves are not looked at here."""

    def __init__(self, file: FileIO, entries: dict[str, PackedEntry]) -> None:
        self.file = file
        self.entries = entries

    @classmethod
    def open(cls, path: Path, key: str) -> PackedFile:
        """Raises ModelFileError if the manifest is broken, has another key or asks for more than the file has;
        OSError as `open`."""
        file = FileIO(path)
        try:
            entries = _read_manifest(file, path, key)
        except BaseException:
            file.close()
            raise
        return cls(file, entries)

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_packed_file(path: Path, key: str, matrices: Sequence[PackedMatrix]) -> None:
    """Whole or not at all. Raises OSError where the disk refuses."""
    manifest, entries = _manifest(key, matrices)
    with atomic_writer(path) as file:
        chunks = _Chunks(file)
        chunks.add(MAGIC + len(manifest).to_bytes(8, "little") + hashlib.sha256(manifest).digest() + manifest)
        for entry, matrix in zip(entries, matrices, strict=True):
            chunks.add(bytes(entry.offset - chunks.offset))
            chunks.add(matrix.data)
        chunks.flush()


class _Chunks:
    """Writes in whole chunks at multiples of their size: the page cache then holds the file in pages of 2 MiB, where
    the file system has such, and a mapping of it is as fast to read as memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.offset = 0
        self._file = file
        self._chunk = np.empty(CHUNK_BYTES, np.uint8)

    def add(self, data: bytes | NDArray[np.uint8]) -> None:
        left = np.frombuffer(data, np.uint8)
        while left.size:
            start = self.offset % CHUNK_BYTES
            part, left = np.split(left, [min(left.size, CHUNK_BYTES - start)])
            self._chunk[start : start + part.size] = part
            self.offset += part.size
            if self.offset % CHUNK_BYTES == 0:
                self._file.write(self._chunk.data)

    def flush(self) -> None:
        self._file.write(self._chunk[: self.offset % CHUNK_BYTES].data)


def _manifest(key: str, matrices: Sequence[PackedMatrix]) -> tuple[bytes, list[PackedEntry]]:
    """Offsets depend on the manifest's length and that on the offsets: they begin where the longest one would end."""
    offset = _aligned(_HEAD_BYTES + len(key) + 128 + sum(len(one.name) * 6 + 256 for one in matrices))
    entries = []
    for one in matrices:
        num_bytes = one.data.nbytes
        entries.append(PackedEntry(one.name, one.layout, one.rows, one.columns, offset, num_bytes, one.checksum))
        offset = _aligned(offset + num_bytes)
    rows = [[getattr(entry, name) for name in PackedEntry.__slots__] for entry in entries]
    return json.dumps({"key": key, "matrices": rows}).encode(), entries


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _read_manifest(file: FileIO, path: Path, key: str) -> dict[str, PackedEntry]:
    file_bytes = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD_BYTES) or b""
    num_bytes = int.from_bytes(head[8:16], "little")
    if len(head) < _HEAD_BYTES or head[:8] != MAGIC or num_bytes > min(MAX_MANIFEST_BYTES, file_bytes):
        raise ModelFileError(path, "no file of packed weights, or a broken one", offset=0)
    manifest = file.read(num_bytes) or b""
    if hashlib.sha256(manifest).digest() != head[16:]:
        raise ModelFileError(path, "the manifest does not have its checksum", offset=16)
    try:
        content = json.loads(manifest)
        entries = {row[0]: PackedEntry(*row) for row in content["matrices"]}
        found_key = content["key"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ModelFileError(path, f"the manifest cannot be read: {error}", offset=_HEAD_BYTES) from error
    if found_key != key:
        raise ModelFileError(path, "the weights were packed for something else", field="key", offset=_HEAD_BYTES)
    if any(not 0 <= entry.offset <= file_bytes - entry.num_bytes for entry in entries.values()):
        raise ModelFileError(path, f"the file ends at {file_bytes}, before its last matrix: truncated")
    return entries
