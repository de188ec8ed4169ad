"""vivace.toml: the tables [engine] and [serve], with the fields of `EngineConfig` and `ServeConfig` as keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivace.core.config import KV_CACHE_ALIASES, EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.core.option_types import check_type, field_types
from vivace.serve.config import ServeConfig

SUFFIX = ".toml"
TABLES: dict[str, type] = {"engine": EngineConfig, "serve": ServeConfig}


class ConfigFile:
    """A configuration file, read and checked key by key. Raises `ConfigError` naming file, line and key."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: list[str] = []
        self._tables = self._read()
        for name in self._tables:
            self._check_table(name)

    def table(self, name: str) -> dict[str, Any]:
        """The options of one table; none where it is not there."""
        return dict(self._tables.get(name, {}))

    def located(self, error: ConfigError, table: str, flags: Mapping[str, Any]) -> ConfigError:
        """The error with its place, where it begins with a key that this file gave and no flag did."""
        key = str(error).partition(" ")[0].rstrip(":")
        if key not in self._tables.get(table, {}) or key in flags:
            return error
        return ConfigError(f"{self._where(table, key)}: {error}")

    def _read(self) -> dict[str, Any]:
        try:
            text = Path(self._path).read_text(encoding="utf-8")
            self._lines = text.splitlines()
            return tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"cannot read {self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self._path} is not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self._path} is not valid TOML: {error}") from None

    def _check_table(self, name: str) -> None:
        if name not in TABLES:
            raise ConfigError(
                f"{self._where('', name)}: unknown table or key {name!r}{nearest_name(name, [*TABLES])}"
            )
        table = self._tables[name]
        if not isinstance(table, dict):
            raise ConfigError(f"{self._where('', name)}: write [{name}] and its keys below it")
        types = field_types(TABLES[name])
        for key, value in table.items():
            if key not in types:
                raise ConfigError(
                    f"{self._where(name, key)}: unknown key {key!r} in [{name}]{nearest_name(key, [*types])}"
                )
            if key == "kv_cache_dtype" and isinstance(value, str):
                value = KV_CACHE_ALIASES.get(value, value)
            table[key] = tuple(value) if isinstance(value, list) else value
            try:
                check_type(key, table[key], types[key])
            except ConfigError as error:
                raise ConfigError(f"{self._where(name, key)}: {error}") from None

    def _where(self, table: str, key: str) -> str:
        """File and line of a key in a table; "" is the top, where tables themselves stand. tomllib does not tell."""
        current = ""
        for number, line in enumerate(self._lines, 1):
            stripped = line.strip()
            if stripped.startswith("["):
                current = stripped.strip("[").partition("]")[0].strip(" \t\"'")
                if table == "" and current.partition(".")[0] == key:
                    return f"{self._path}, line {number}"
            elif current == table and stripped.partition("=")[0].partition(".")[0].strip(" \t\"'") == key:
                return f"{self._path}, line {number}"
        return f"{self._path}, table [{table}]"
