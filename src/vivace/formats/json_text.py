"""JSON of a file that may lie: members of an object one at a time, so that only what is wanted takes memory.

`json.loads` makes 2.5 GB of values out of 99 MB that nobody will use.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from typing import Any, NoReturn

from vivace.core.errors import ModelFileError

FIRST_WINDOW_CHARS = 1_024  # of a value; a larger one is looked at again, in a window so many times as long
WINDOW_GROWTH = 16
MAX_KEY_CHARS = 8_192  # with escapes
_BLANK = re.compile(r"[ \t\n\r]*")


class JsonText:
    """A place in a text, which `members` and `value` move on. Strict: no duplicate key, NaN or endless nesting.

    The text is held as Latin-1, one byte a character whatever it says; strings are read as the UTF-8 that they are.
    Everything that is wrong is a `ModelFileError` with `offset`, where the text begins in its file.
    """

    def __init__(self, octets: memoryview, path: str | PathLike[str], offset: int | None = None) -> None:
        self._text = str(octets, "latin-1")
        self._path = path
        self._offset = offset
        self._at = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=self._unique, parse_constant=self._refuse_constant)

    def is_at_object(self) -> bool:
        """Whether an object comes next."""
        self._skip_blank()
        return self._text.startswith("{", self._at)

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next. Read each one's value before the next key is asked for."""
        self._take("{")
        seen: set[str] = set()
        self._skip_blank()
        if self._text.startswith("}", self._at):
            self._at += 1
            return
        while True:
            key = self._key()
            if key in seen:
                raise self._error("the key occurs twice", key[:200])
            seen.add(key)
            self._take(":")
            yield key
            self._skip_blank()
            if not self._text.startswith(",", self._at):
                break
            self._at += 1
        self._take("}")

    def value(self, max_chars: int, field: str = "header") -> Any:
        """The value that comes next; one of more than `max_chars` is refused."""
        self._skip_blank()
        size = min(max_chars, FIRST_WINDOW_CHARS)
        while True:
            window = self._text[self._at : self._at + size]
            try:
                value, end = self._decoded(window, is_cut=len(window) == size)
            except (ValueError, RecursionError) as error:
                if len(window) == size < max_chars:
                    size = min(max_chars, WINDOW_GROWTH * size)
                    continue
                longer = f", or a value of more than {max_chars} characters" if len(window) == max_chars else ""
                raise self._error(f"not valid JSON: {error}{longer}", field) from None
            self._at += end
            return value

    def _decoded(self, window: str, *, is_cut: bool) -> tuple[Any, int]:
        value, end = self._decoder.raw_decode(window)
        if is_cut and end == len(window):
            raise ValueError("a number may go on")
        read = window[:end]
        if not read.isascii() or "\\" in read:
            value = self._decoder.decode(read.encode("latin-1").decode("utf-8"))
            json.dumps(value, ensure_ascii=False).encode()  # an escape may be half of a surrogate pair
        return value, end

    def end(self) -> None:
        """Nothing but blanks may follow."""
        self._skip_blank()
        if self._at < len(self._text):
            raise self._error("not valid JSON: something follows its end")

    def _key(self) -> str:
        key = self.value(MAX_KEY_CHARS)
        if not isinstance(key, str):
            raise self._error("not valid JSON: a key must be a string")
        return key

    def _take(self, mark: str) -> None:
        self._skip_blank()
        if not self._text.startswith(mark, self._at):
            raise self._error(f"not valid JSON: {mark} is missing at byte {self._at}")
        self._at += len(mark)

    def _skip_blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            raise self._error("the key occurs twice", counts.most_common(1)[0][0][:200])
        return result

    def _refuse_constant(self, constant: str) -> NoReturn:
        raise self._error(f"{constant} is not JSON")

    def _error(self, reason: str, field: str = "header") -> ModelFileError:
        return ModelFileError(self._path, reason, field=field, offset=self._offset)
