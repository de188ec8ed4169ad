"""llama.cpp's importance files: GGUF with the sums of squared inputs of every matrix (tools/imatrix).

`NAME.in_sum2` holds the sum over all tokens, `NAME.counts` how many tokens that were; names are GGUF's. The binary
form before it, which is read as well, is `imatrix_dat`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.gguf import MAGIC, GGUFFile
from vivace.formats.gguf_metadata import MetadataValue
from vivace.formats.gguf_writer import GGUFTensor, write_gguf
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import StoredTensor
from vivace.quantize.imatrix_dat import DatFile

_SUM, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True, eq=False)
class ImportanceMatrix:
    """Mean squared inputs by GGUF's names, and what they were measured on: chunks of `chunk_size` tokens.

    0 where the file does not tell.
    """

    importance: dict[str, NDArray[np.float32]]
    datasets: tuple[str, ...]
    num_chunks: int
    chunk_size: int

    @property
    def checksum(self) -> str:
        """SHA-256 of names and values."""
        digest = hashlib.sha256()
        for name, values in sorted(self.importance.items()):
            digest.update(f"{name} {values.size}\n".encode())
            digest.update(np.ascontiguousarray(values, "<f4").data)
        return digest.hexdigest()


def read_imatrix(path: str | PathLike[str]) -> ImportanceMatrix:
    """Reads an importance file, ours or llama.cpp's, GGUF or the older binary one.

    Raises ModelFileError where the file is broken or something else, UnsupportedError for mixtures of experts.
    """
    if not _is_gguf(path):
        older = DatFile(path)
        return ImportanceMatrix(older.importance, (older.dataset,) if older.dataset else (), older.chunks, 0)
    file = GGUFFile.open(path)
    if file.metadata.get("general.type") != "imatrix":
        raise ModelFileError(path, "not an importance matrix: make one with llama-imatrix", field="general.type")
    names = [name.removesuffix(_SUM) for name in file.tensors if name.endswith(_SUM)]
    datasets = file.metadata.get("imatrix.datasets")
    return ImportanceMatrix(
        {name: _means(file, name, path) for name in names},
        tuple(map(str, datasets)) if isinstance(datasets, list) else (),
        _count(file, "imatrix.chunk_count", path),
        _count(file, "imatrix.chunk_size", path),
    )


def _is_gguf(path: str | PathLike[str]) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from None


def write_imatrix(path: str | PathLike[str], matrix: ImportanceMatrix) -> None:
    """Writes what `llama-quantize --imatrix` reads; whole or not at all."""
    metadata: dict[str, MetadataValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": list(matrix.datasets),
        "imatrix.chunk_count": matrix.num_chunks,
        "imatrix.chunk_size": matrix.chunk_size,
    }
    write_gguf(path, metadata, list(_tensors(matrix)))


def _tensors(matrix: ImportanceMatrix) -> Iterator[GGUFTensor]:
    num_tokens = np.float32(max(1, matrix.num_chunks * matrix.chunk_size))
    for name, means in sorted(matrix.importance.items()):
        for suffix, values in ((_SUM, means * num_tokens), (_COUNTS, num_tokens)):
            stored = encode(np.atleast_2d(values), "f32", name + suffix)
            yield GGUFTensor(stored.name, stored.encoding, stored.shape, partial(_given, stored))


def _given(stored: StoredTensor) -> StoredTensor:
    return stored


def _means(file: GGUFFile, name: str, path: str | PathLike[str]) -> NDArray[np.float32]:
    if name + _COUNTS not in file.tensors:
        raise ModelFileError(path, "the counts of this matrix are missing", field=name + _COUNTS)
    sums, counts = (dequantize(file.tensors[name + suffix]) for suffix in (_SUM, _COUNTS))
    if counts.size > 1:
        raise UnsupportedError(f"{path}: {name} has {counts.size} experts; importance is read for dense models only")
    if not (np.isfinite(sums).all() and (sums >= 0).all() and counts.size and np.isfinite(counts).all()):
        raise ModelFileError(path, "sums must be finite and not negative", field=name + _SUM)
    count = float(counts.reshape(-1)[0])
    values = sums.reshape(-1)
    return values / np.float32(count) if count > 0 else np.ones_like(values)


def _count(file: GGUFFile, key: str, path: str | PathLike[str]) -> int:
    value = file.metadata.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(path, f"must be a whole number, not {value!r:.40}", field=key)
    return value
