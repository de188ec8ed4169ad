"""Which programs of a grid wrote and read what of global memory: they run in no order, so none may need another's.

Of a load the first byte alone is remembered: what is found is wrong, not all that is wrong is found.
"""

from __future__ import annotations

import numpy as np

from ptx.source import Instruction

NOBODY, MANY = -1, -2


class Traffic:
    """Of a launch, over an arena of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._writers = np.full(size, NOBODY, np.int32)
        self._readers = np.full(size, NOBODY, np.int32)
        self._is_written = False

    def note_load(self, instruction: Instruction, offsets: np.ndarray, programs: np.ndarray) -> None:
        if self._is_written:
            writers = self._writers[offsets]
            if ((writers != NOBODY) & (writers != programs)).any():
                raise instruction.error("reads what another program of the grid wrote")
        before = self._readers[offsets]
        self._readers[offsets] = programs
        is_shared = (self._readers[offsets] != programs) | ((before != NOBODY) & (before != programs))
        self._readers[offsets[is_shared]] = MANY

    def note_store(
        self, instruction: Instruction, offsets: np.ndarray, size: int, programs: np.ndarray, is_same: np.ndarray
    ) -> None:
        """`is_same`: whether these bytes were there already."""
        places = offsets[:, None] + np.arange(size)
        readers, writers = self._readers[places], self._writers[places]
        if ((readers != NOBODY) & (readers != programs[:, None])).any():
            raise instruction.error("writes what another program of the grid reads")
        if (((writers != NOBODY) & (writers != programs[:, None])).any(1) & ~is_same).any():
            raise instruction.error("writes what another program of the grid wrote otherwise")
        self._writers[places] = programs[:, None]
        self._is_written = True
