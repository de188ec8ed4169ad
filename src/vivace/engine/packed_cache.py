"""Packed weights from an earlier start: read instead of decoding, quantising and packing them again."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace import __version__
from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import ModelFileError
from vivace.formats.cache_directory import cache_directory
from vivace.formats.fingerprint import files_fingerprint, weight_file_bytes
from vivace.formats.packed_directory import make_room, mark_used, packed_path
from vivace.formats.packed_file import PackedEntry, PackedFile, PackedMatrix, write_packed_file
from vivace.ops.backend import Backend, PackedReader, PackedStorage
from vivace.ops.program import Weight

# A smaller model packs in a tenth of a second, and every copy on disk wants to be looked after.
MIN_WEIGHT_BYTES = 256 << 20

ORDER_SUFFIX = "#order"
WRITER_NAME = "packed-cache-writer"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PackedCache:
    """The matrices of one model under one key. What the file lacks, or holds damaged, is packed and written anew."""

    storage: PackedStorage
    source: Path
    path: Path
    key: str
    fingerprint: str
    entries: dict[str, PackedEntry] = field(default_factory=dict)
    reader: PackedReader | None = None
    damage: str = ""
    weights: list[Weight] = field(default_factory=list)
    num_read: int = 0

    @classmethod
    def open(cls, config: EngineConfig, source: Path, storage: PackedStorage) -> PackedCache:
        """Raises OSError where the model's files cannot be read."""
        fingerprint = files_fingerprint(source)
        parts = (__version__, storage.version, config.quantization, fingerprint)
        key = hashlib.sha256("|".join(parts).encode()).hexdigest()
        cache = cls(storage, source, packed_path(packed_directory(), key), key, fingerprint)
        try:
            with PackedFile.open(cache.path, key) as file:
                cache.entries, cache.reader = file.entries, storage.reader(file.file.fileno())
        except FileNotFoundError:
            return cache
        except (OSError, ModelFileError) as error:  # it will be written again
            cache.damage = str(error)
        return cache

    def matrix(self, name: str, shape: tuple[int, ...]) -> Weight | None:
        """The matrix as it was packed, its checksum verified; None if it must be packed."""
        entry = self.entries.get(name)
        if self.reader is None or entry is None or (entry.rows, entry.columns) != shape:
            return None
        weight = self.reader.matrix(entry, self.entries.get(name + ORDER_SUFFIX))
        if weight is None:
            self.damage = f"{name} does not have its checksum"
            return None
        self.num_read += 1
        self.weights.append(weight)
        return weight

    def keep(self, weight: Weight) -> None:
        """A matrix that had to be packed."""
        self.weights.append(weight)

    def finish(self) -> Choice:
        """Says what happened. A file that lacks anything is written beside the engine's work, in a thread that the
        process waits for at its end: the disk takes a second for 300 MB, and nobody's first token should."""
        if self.reader is not None and self.num_read == len(self.weights):
            mark_used(self.path)
            return Choice("packed_cache", "read", f"{self.path}, {self.reader.note}")
        try:
            if files_fingerprint(self.source) != self.fingerprint:
                return Choice("packed_cache", "off", "the model's files changed while they were read")
            make_room(self.path.parent, sum(weight.num_bytes for weight in self.weights))
        except OSError as error:
            return Choice("packed_cache", "failed", self._complain(error))
        threading.Thread(target=self._write, name=WRITER_NAME).start()
        damage = f"; what was there is gone: {self.damage}" if self.damage else ""
        return Choice("packed_cache", "written", f"{self.path}{damage}")

    def _write(self) -> None:
        try:
            write_packed_file(self.path, self.key, list(self._packed()))
        except OSError as error:
            self._complain(error)
        self.weights.clear()

    def _packed(self) -> Iterator[PackedMatrix]:
        """Each matrix, and after it the order of its inputs where it has one."""
        for weight in self.weights:
            rows, columns = weight.shape
            yield self._matrix(weight.name, weight.layout, rows, columns, self.storage.data(weight))
            order = self.storage.order(weight)
            if order is not None:
                yield self._matrix(weight.name + ORDER_SUFFIX, "order", 1, columns, order.view(np.uint8))

    def _matrix(self, name: str, layout: str, rows: int, columns: int, data: NDArray[np.uint8]) -> PackedMatrix:
        return PackedMatrix(name, layout, rows, columns, self.storage.checksum(data), data)

    def _complain(self, error: OSError) -> str:
        reason = f"{self.path.parent} cannot take packed weights, so every start packs them: {error}"
        logger.warning("%s; --no-packed-cache keeps this quiet", reason)
        return reason


def packed_directory() -> Path:
    """Where packed weights lie."""
    return cache_directory() / "packed"


def open_packed_cache(config: EngineConfig, source: Path, backend: Backend) -> PackedCache | Choice:
    """The cache of a model's packed weights, or why there is none."""
    if not config.packed_cache:
        return Choice("packed_cache", "off", "as asked")
    storage = backend.packed_storage
    if storage is None:
        return Choice("packed_cache", "off", f"the {backend.name} backend packs nothing")
    if weight_file_bytes(source) < MIN_WEIGHT_BYTES:
        return Choice("packed_cache", "off", "so small a model packs as fast as it is read")
    try:
        return PackedCache.open(config, source, storage)
    except OSError as error:
        return Choice("packed_cache", "off", f"the model's files cannot be told from others: {error}")
