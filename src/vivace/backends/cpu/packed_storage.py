"""Packed matrices of the native module as bytes: mapped from a file where that is as fast as memory of our own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vivace.backends.cpu import _native
from vivace.formats.packed_file import PackedEntry
from vivace.ops.program import Weight

SMAPS = Path("/proc/self/smaps")
HUGE_PAGE = 2 << 20
PROBES = 64
# A mapping half of which lies in huge pages reads 5% slower here than memory of our own, one without up to a third.
# But copying 2.4 GB takes 0.3 s, or up to 3.5 s where the machine has to find the memory first; mapping them, 0.1 s.
MIN_HUGE_SHARE = 0.5


class CpuPackedStorage:
    """The same bytes serve every instruction set."""

    def __init__(self, device: _native.Device, layouts: Sequence[str]) -> None:
        self.version = _native.packed_version()
        self._device = device
        self._layouts = layouts

    def data(self, weight: Weight) -> NDArray[np.uint8]:
        """The packed matrix, a view."""
        return _native.packed_data(cast(_native.Matrix, weight.data))

    def order(self, weight: Weight) -> NDArray[np.int32] | None:
        """The input of each packed column, a view."""
        return _native.packed_order(cast(_native.Matrix, weight.data))

    def checksum(self, data: NDArray[np.uint8]) -> int:
        """As csrc/packed_file.h defines it."""
        return _native.checksum(self._device, data)

    def reader(self, file: int, entries: Collection[PackedEntry]) -> CpuPackedReader | None:
        """Of an open file, which is mapped; None where it cannot be. All checksums are taken here."""
        try:
            mapping = _native.PackedFile(file)
        except MemoryError:
            return None
        mapping.touch(PROBES)
        if huge_share(mapping.address, PROBES) < MIN_HUGE_SHARE:
            return CpuPackedReader(self._device, self._layouts, mapping, None)
        ranges = [(entry.offset, entry.num_bytes) for entry in entries]
        sums = dict(zip(ranges, mapping.checksums(self._device, ranges), strict=True))
        return CpuPackedReader(self._device, self._layouts, mapping, sums)

    def copy(self, name: str, weight: Weight) -> Weight:
        """The same matrix again."""
        data = _native.copy_packed(self._device, cast(_native.Matrix, weight.data))
        return Weight(name, weight.shape, weight.layout, weight.num_bytes, data)


class CpuPackedReader:
    """Takes matrices from a mapped file, or copies them into huge pages in parallel. `sums` by (offset, bytes): those
    of the mapping; None: it is not used."""

    def __init__(
        self,
        device: _native.Device,
        layouts: Sequence[str],
        mapping: _native.PackedFile,
        sums: dict[tuple[int, int], int] | None,
    ) -> None:
        self.note = "copied: the file's pages are small" if sums is None else "mapped"
        self._device = device
        self._layouts = layouts
        self._mapping = mapping
        self._sums = sums

    def matrix(self, entry: PackedEntry, order: PackedEntry | None = None) -> Weight | None:
        """None if the bytes there are not it."""
        if entry.layout not in self._layouts:
            return None
        try:
            data = self._matrix(entry, None if order is None else self._order(order))
        except (ValueError, TypeError, MemoryError):  # a manifest that nobody here wrote
            return None
        if data is None or data.num_bytes != entry.num_bytes:
            return None
        return Weight(entry.name, (entry.rows, entry.columns), entry.layout, data.num_bytes, data)

    def _matrix(self, entry: PackedEntry, order: NDArray[np.int32] | None) -> _native.Matrix | None:
        what = (self._layouts.index(entry.layout), entry.rows, entry.columns, entry.offset)
        if self._sums is None:
            return self._mapping.copied_matrix(self._device, *what, entry.checksum, order)
        if self._sums.get((entry.offset, entry.num_bytes)) != entry.checksum:
            return None
        return self._mapping.mapped_matrix(*what, order)

    def _order(self, entry: PackedEntry) -> NDArray[np.int32]:
        """Raises ValueError if the bytes there are no order."""
        data = self._mapping.bytes(entry.offset, entry.num_bytes)
        order = data.view(np.int32)
        is_whole = _native.checksum(self._device, data) == entry.checksum
        if not is_whole or not np.array_equal(np.sort(order), np.arange(order.size)):
            raise ValueError(f"{entry.name} is damaged")
        return order


def huge_share(address: int, num_touched: int, smaps: Path = SMAPS) -> float:
    """How much of what `num_touched` reads mapped lies in huge pages; 0 where the system does not tell."""
    try:
        lines = iter(smaps.read_text().splitlines())
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith(f"{address:x}-"):
            break
    for line in lines:
        if line.startswith("FilePmdMapped:"):
            return int(line.split()[1]) * 1024 / (num_touched * HUGE_PAGE)
    return 0.0
