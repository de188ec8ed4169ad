"""Objects of a file, one a line or in one JSON array, as ShareGPT is published. One is in memory at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivace.bench.traffic.numbered_lines import Bytes, numbered_records, reading
from vivace.core.errors import ConfigError

CHUNK_BYTES = 1 << 18
MAX_RECORD_CHARS = 64 << 20  # as a line's; the longest chat of ShareGPT has 3 MB
_BLANKS = re.compile(r"[ \t\r\n]*")


def file_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects with where they stand ("FILE, line N" or "FILE, record N"), of a plain or a gzip file.

    Raises `ConfigError` naming the file and the place.
    """
    path = Path(path).expanduser()
    with reading(path, lambda: "record 1") as file:
        is_array = _ArrayText(path, file).next_mark() == "["
    return _array_records(path) if is_array else numbered_records(path)


def _array_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 1
    with reading(path, lambda: f"record {number}") as file:
        text = _ArrayText(path, file)
        text.take("[", number)
        while text.next_mark() != "]":
            if number > 1:
                text.take(",", number)
            value = text.value(number)
            if not isinstance(value, dict):
                raise ConfigError(f"{path}, record {number} is no JSON object but {type(value).__name__}")
            yield f"{path}, record {number}", value
            number += 1
        text.take("]", number)
        if text.next_mark():
            raise ConfigError(f"{path}: something follows the array of {number - 1} records")


class _ArrayText:
    """What was read of the file and not used yet."""

    def __init__(self, path: Path, file: Bytes) -> None:
        self._path = path
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0  # of the text, what comes next
        self._is_whole = False

    def next_mark(self) -> str:
        """The next character that is not blank; nothing at the end of the file."""
        while True:
            found = _BLANKS.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text) or self._is_whole:
                return self._text[self._at : self._at + 1]
            self._read_more(CHUNK_BYTES)

    def take(self, mark: str, number: int) -> None:
        found = self.next_mark()
        if found != mark:
            what = f"{mark!r} is missing" if found else "the file ends; fetch it again"
            raise ConfigError(f"{self._path}, before record {number}: {what}")
        self._at += 1

    def value(self, number: int) -> Any:
        """The next value. Each try reads as much again as there is: a long one costs its length, not its square."""
        where = f"{self._path}, record {number}"
        if not self.next_mark():
            raise ConfigError(f"{where} is missing: the file ends; fetch it again")
        while True:
            try:
                value, self._at = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._is_whole:
                    raise ConfigError(f"{where} is no JSON object: {error!s:.100}") from None
                num_chars = len(self._text) - self._at
                if num_chars > MAX_RECORD_CHARS:
                    reason = f"damaged, or longer than {MAX_RECORD_CHARS >> 20} MiB"
                    raise ConfigError(f"{where} is {reason}: {error!s:.100}") from None
                self._read_more(max(CHUNK_BYTES, num_chars))
            else:
                return value

    def _read_more(self, num_bytes: int) -> None:
        octets = self._file.read(num_bytes)
        self._is_whole = not octets
        self._text = self._text[self._at :] + self._decode(octets, self._is_whole)
        self._at = 0
