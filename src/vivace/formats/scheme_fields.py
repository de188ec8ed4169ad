"""Typed reading of a `quantization_config`. Every refusal names the file and the key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from typing import Any

from vivace.core.errors import ModelFileError

MAX_LIST_LENGTH = 1 << 16


class SchemeFields:
    """The keys of a JSON object. A key whose value is null counts as absent; `where` goes before it in messages."""

    def __init__(self, values: Mapping[str, Any], path: str | PathLike[str], where: str) -> None:
        self.values = values
        self.path = path
        self.where = where

    def error(self, key: str, reason: str) -> ModelFileError:
        return ModelFileError(self.path, reason, field=self.where + key)

    def get(self, key: str) -> Any:
        """The raw value, None if absent."""
        return self.values.get(key)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; without a default the key must be there."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, "is missing" if value is None else f"must be an integer, got {value!r:.80}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, got {value!r:.80}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {value!r:.80}")
        return value

    def word(self, key: str, default: str | None = None) -> str:
        """A string in lower case; without a default the key must be there."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.error(key, "is missing" if value is None else f"must be a string, got {value!r:.80}")
        return value.lower()

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty if absent."""
        value = self.get(key)
        value = [] if value is None else value
        if not isinstance(value, list) or len(value) > MAX_LIST_LENGTH:
            raise self.error(key, f"must be a list of strings, got {value!r:.80}")
        if not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must hold strings only, got {value!r:.80}")
        return tuple(value)

    def section(self, key: str) -> SchemeFields | None:
        """A nested object, None if absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, f"must be an object, got {value!r:.80}")
        return SchemeFields(value, self.path, f"{self.where}{key}.")

    def refuse_unless(self, key: str, value: object, known: Collection[object], advice: str) -> None:
        """Refuses a value outside `known`; `advice` says what to do."""
        if value not in known:
            supported = ", ".join(str(item) for item in known)
            raise self.error(key, f"{value!r:.80} is not supported, {supported} can be read; {advice}")

    def group_size(self, key: str = "group_size", default: int | None = None) -> int | None:
        """Inputs a group; None for one group a row, which files write as -1."""
        size = self.integer(key, default)
        if size < 1 and size != -1:
            raise self.error(key, f"must be -1 or above 0, got {size!r:.80}")
        return None if size == -1 else size
