"""Typed, bounded reading of values that a model file claims. Every refusal names the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar

import numpy as np

from vivace.core.errors import ConfigError, ModelFileError
from vivace.models.spec import LIMITS, ModelSpec

Default = TypeVar("Default")
MAX_LIST_LENGTH = 1 << 16


class ConfigFields:
    """The keys of a JSON object or of GGUF metadata. A key whose value is null counts as absent.

    `prefix` is put before each key (`llama.`); `where` before it in messages only (`rope_scaling.`).
    """

    def __init__(
        self, values: Mapping[str, Any], path: str | PathLike[str], *, prefix: str = "", where: str = ""
    ) -> None:
        self.values = values
        self.path = path
        self.prefix = prefix
        self.where = where

    def error(self, key: str, reason: str) -> ModelFileError:
        return ModelFileError(self.path, reason, field=self.where + self.prefix + key)

    def get(self, key: str) -> Any:
        """The raw value, None if absent."""
        return self.values.get(self.prefix + key)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def count(self, key: str, limit: int, default: int | None = None) -> int:
        """An integer from 1 to `limit`; without a default the key must be there."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise self.error(key, f"must be an integer from 1 to {limit}, got {value!r:.80}")
        return value

    def size(self, key: str, name: str, default: int | None = None) -> int:
        """A count within the limit of `ModelSpec`'s field `name`."""
        return self.count(key, LIMITS[name], default)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default the key must be there."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        return self._finite(key, value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.error(key, f"must be above 0, got {value!r}")
        return value

    def optional_positive(self, key: str) -> float | None:
        return self.positive(key) if key in self else None

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {value!r:.80}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise self.error(key, "is missing" if value is None else f"must be a string, got {value!r:.80}")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers, of at most MAX_LIST_LENGTH."""
        value = self.get(key)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, list | np.ndarray) or len(value) > MAX_LIST_LENGTH:
            raise self.error(key, f"must be a list of numbers, got {value!r:.80}")
        return tuple(self._finite(key, item) for item in value)

    def section(self, key: str) -> ConfigFields | None:
        """A nested object, None if absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, f"must be an object, got {value!r:.80}")
        return ConfigFields(value, self.path, where=f"{self.where}{key}.")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One token id or a list of them; the vocabulary bounds them in `ModelSpec`."""
        value = self.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or token < 0:
                raise self.error(key, f"must be a token id or a list of them, got {value!r:.80}")
        return tuple(ids)

    def build(self, **fields: Any) -> ModelSpec:
        """A ModelSpec; its complaints become errors of this file."""
        try:
            return ModelSpec(**fields)
        except ConfigError as error:
            raise ModelFileError(self.path, str(error)) from error

    def _finite(self, key: str, value: object) -> float:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, got {value!r:.80}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, f"must be a finite number, got {value!r:.80}")
        return number
