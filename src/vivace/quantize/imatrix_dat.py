"""llama.cpp's older importance files (`imatrix.dat`), which most published ones still are.

Little-endian: int32 number of entries; for each int32 length of the name, the name, int32 calls, int32 number of
inputs, float32 a value each, mean squares times calls; then, of later versions, int32 chunks, int32 length of the
data set's name, the name.
"""

from __future__ import annotations

import struct
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError

MOST_BYTES = 1 << 30  # 70B models have 25 MB
LONGEST_NAME = 4096
_WHAT = "not an importance matrix, neither GGUF nor llama.cpp's older .dat"


class DatFile:
    """Means by GGUF's names, `chunks` and `dataset` (0 and empty where an older version did not note them).

    Raises ModelFileError where the file is broken or something else.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path, self._at = path, 0
        try:
            size = Path(path).stat().st_size
            if size > MOST_BYTES:
                raise ModelFileError(path, f"{_WHAT}: too large")
            self._data = Path(path).read_bytes()
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from None
        self.importance: dict[str, NDArray[np.float32]] = {}
        for _ in range(self._int(1, len(self._data) // 16, "number of entries")):
            self._entry()
        has_note = self._at < len(self._data)
        self.chunks = self._int(0, (1 << 31) - 1, "chunks") if has_note else 0
        self.dataset = self._text("data set") if has_note else ""

    def _entry(self) -> None:
        name = self._text("name")
        calls = self._int(0, (1 << 31) - 1, name)
        count = self._int(1, len(self._data) // 4, name)
        values = np.frombuffer(self._take(4 * count, name), "<f4").astype(np.float32)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ModelFileError(self._path, "values must be finite and not negative", field=name)
        self.importance[name] = values / np.float32(calls) if calls else np.ones_like(values)

    def _text(self, field: str) -> str:
        length = self._int(0, LONGEST_NAME, field)
        return self._take(length, field).decode("utf-8", "replace")

    def _int(self, least: int, most: int, field: str) -> int:
        (value,) = struct.unpack("<i", self._take(4, field))
        if not least <= value <= most:
            raise ModelFileError(self._path, f"{_WHAT}: {value} cannot be", field=field, offset=self._at - 4)
        return int(value)

    def _take(self, num_bytes: int, field: str) -> bytes:
        taken = self._data[self._at : self._at + num_bytes]
        if len(taken) < num_bytes:
            raise ModelFileError(self._path, f"{_WHAT}, or cut off", field=field, offset=self._at)
        self._at += num_bytes
        return taken
