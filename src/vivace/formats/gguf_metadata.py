"""Reading GGUF's scalars, strings and arrays: every length is held against the bytes left before it is used."""

from __future__ import annotations

from os import PathLike
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError

MetadataValue = bool | int | float | str | list[str] | NDArray[Any]

_U32 = Struct("<I")
_U64 = Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, tuple[Struct, np.dtype[Any]]] = {
    0: (Struct("<B"), np.dtype("<u1")),
    1: (Struct("<b"), np.dtype("<i1")),
    2: (Struct("<H"), np.dtype("<u2")),
    3: (Struct("<h"), np.dtype("<i2")),
    4: (Struct("<I"), np.dtype("<u4")),
    5: (Struct("<i"), np.dtype("<i4")),
    6: (Struct("<f"), np.dtype("<f4")),
    _BOOL: (Struct("<B"), np.dtype("<u1")),
    10: (Struct("<Q"), np.dtype("<u8")),
    11: (Struct("<q"), np.dtype("<i8")),
    12: (Struct("<d"), np.dtype("<f8")),
}


class GGUFCursor:
    """A position in a GGUF file. A read that would pass the end raises ModelFileError with field and offset."""

    def __init__(self, buffer: memoryview, path: str | PathLike[str]) -> None:
        self._buffer = buffer
        self._path = path
        self.position = 0

    @property
    def num_bytes_left(self) -> int:
        return len(self._buffer) - self.position

    def error(self, reason: str, field: str, offset: int | None = None) -> ModelFileError:
        return ModelFileError(self._path, reason, field=field, offset=self.position if offset is None else offset)

    def advance(self, num_bytes: int, field: str) -> int:
        """The position before, after moving over `num_bytes` that are surely there."""
        start = self.position
        if num_bytes > self.num_bytes_left:
            raise self.error(f"needs {num_bytes} bytes, the file has {self.num_bytes_left} left", field)
        self.position = start + num_bytes
        return start

    def uint32(self, field: str) -> int:
        return int(_U32.unpack_from(self._buffer, self.advance(4, field))[0])

    def uint64(self, field: str) -> int:
        return int(_U64.unpack_from(self._buffer, self.advance(8, field))[0])

    def count(self, field: str, min_bytes: int) -> int:
        """A 64-bit number of things, each of which takes at least `min_bytes` of the file from here on."""
        start = self.position
        count = self.uint64(field)
        if count * min_bytes > self.num_bytes_left:
            reason = f"{count} of at least {min_bytes} bytes, the file has {self.num_bytes_left} left"
            raise self.error(reason, field, start)
        return count

    def string(self, field: str, max_bytes: int | None = None) -> str:
        start = self.position
        num_bytes = self.count(field, min_bytes=1)
        if max_bytes is not None and num_bytes > max_bytes:
            raise self.error(f"a name of {num_bytes} bytes; the limit is {max_bytes}", field, start)
        begin = self.advance(num_bytes, field)
        return self._text(begin, begin + num_bytes, field)

    def value(self, field: str) -> MetadataValue:
        """A type number and the value of that type. Numeric arrays are copies, so they outlive the mapping."""
        start = self.position
        value_type = self.uint32(field)
        if value_type == _STRING:
            return self.string(field)
        if value_type == _ARRAY:
            return self._array(field)
        if value_type == _BOOL:
            return bool(self._booleans(1, field)[0])
        if value_type not in _NUMBERS:
            raise self.error(f"value type {value_type} is unknown", field, start)
        number = _NUMBERS[value_type][0]
        result: int | float = number.unpack_from(self._buffer, self.advance(number.size, field))[0]
        return result

    def _array(self, field: str) -> list[str] | NDArray[Any]:
        start = self.position
        item_type = self.uint32(field)
        if item_type == _STRING:
            return self._strings(self.count(field, min_bytes=8), field)
        if item_type == _ARRAY:  # nothing writes them: llama.cpp refuses them too
            raise self.error("arrays of arrays are not supported", field, start)
        if item_type not in _NUMBERS:
            raise self.error(f"array item type {item_type} is unknown", field, start)
        dtype = _NUMBERS[item_type][1]
        count = self.count(field, min_bytes=dtype.itemsize)
        if item_type == _BOOL:
            return self._booleans(count, field)
        return np.frombuffer(self._buffer, dtype, count, self.advance(count * dtype.itemsize, field)).copy()

    def _booleans(self, count: int, field: str) -> NDArray[np.bool_]:
        start = self.advance(count, field)
        octets = np.frombuffer(self._buffer, np.uint8, count, start)
        if count and octets.max() > 1:
            raise self.error("a boolean is neither 0 nor 1", field, start + int(octets.argmax()))
        return octets.astype(np.bool_)

    def _strings(self, count: int, field: str) -> list[str]:
        """The loop of a vocabulary (150,000 tokens and as many merges), hence without a method call per item."""
        buffer, limit, position = self._buffer, len(self._buffer), self.position
        strings = []
        for index in range(count):
            begin = position + 8
            end = begin + _U64.unpack_from(buffer, position)[0] if begin <= limit else limit + 1
            if end > limit:
                raise self.error(f"string {index} of {count} passes the end of the file", field, position)
            try:
                strings.append(str(buffer[begin:end], "utf-8"))
            except UnicodeDecodeError:
                self._text(begin, end, field)  # raises
            position = end
        self.position = position
        return strings

    def _text(self, begin: int, end: int, field: str) -> str:
        try:
            return str(self._buffer[begin:end], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error("a string is not valid UTF-8", field, begin + error.start) from error
