"""Packed matrices of the native module as bytes: mapped from a file where that is as fast as memory of our own."""

from __future__ import annotations

from collections.abc import Sequence
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

    def reader(self, file: int) -> CpuPackedReader | None:
        """Of an open file, which is mapped; None where it cannot be."""
        try:
            mapping = _native.PackedFile(file)
        except MemoryError:
            return None
        mapping.touch(PROBES)
        share = huge_share(mapping.address, PROBES)
        return CpuPackedReader(self._device, self._layouts, mapping, copied=share < MIN_HUGE_SHARE)

    def copy(self, name: str, weight: Weight) -> Weight:
        """The same matrix again."""
        data = _native.copy_packed(self._device, cast(_native.Matrix, weight.data))
        return Weight(name, weight.shape, weight.layout, weight.num_bytes, data)


class CpuPackedReader:
    """Takes matrices from a mapped file, or copies them into huge pages in parallel."""

    def __init__(
        self, device: _native.Device, layouts: Sequence[str], mapping: _native.PackedFile, *, copied: bool
    ) -> None:
        self.note = "copied: the file's pages are small" if copied else "mapped"
        self._device = device
        self._layouts = layouts
        self._mapping = mapping
        self._copied = copied

    def matrix(self, entry: PackedEntry, order: PackedEntry | None = None) -> Weight | None:
        """None if the bytes there are not it."""
        if entry.layout not in self._layouts:
            return None
        index, shape = self._layouts.index(entry.layout), (entry.rows, entry.columns)
        try:
            input_order = None if order is None else self._order(order)
            data = self._mapping.matrix(
                self._device, index, *shape, entry.offset, entry.checksum, self._copied, input_order
            )
        except (ValueError, MemoryError):  # a manifest that nobody here wrote
            return None
        return None if data is None else Weight(entry.name, shape, entry.layout, data.num_bytes, data)

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
