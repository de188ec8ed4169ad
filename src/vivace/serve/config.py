"""What the server was asked for, as values: default < file < flag."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError

LogFormat = Literal["text", "json"]

SERVE_CHOICES: dict[str, tuple[str, ...]] = {"log_format": get_args(LogFormat)}


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that `vivace serve` takes beside the engine's configuration. Invalid values raise `ConfigError`.

    Every limit is on by default. Times are seconds, sizes bytes.
    """

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    port_file: str | None = None  # written when the server listens
    served_model_name: tuple[str, ...] = ()
    # who may ask
    api_key: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: str | None = None
    shared_prefix_cache: bool = False
    cors_allow_origin: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    # what one connection may take
    max_connections: int = 4_096
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 4 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 65.0
    send_timeout_s: float = 30.0
    # what may wait
    max_queued_requests: int = 1_024
    max_queued_tokens: int | None = None
    max_queue_s: float = 10.0
    request_timeout_s: float | None = None
    # the end
    drain_timeout: float = 30.0
    log_format: LogFormat = "text"
    access_log: bool = True

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for entry in fields(self):
            _check_type(entry.name, getattr(self, entry.name), hints[entry.name])
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        for name in ("max_connections", "max_header_bytes", "max_headers", "max_body_bytes", "max_queued_requests"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.max_queued_tokens is not None and self.max_queued_tokens < 1:
            raise ConfigError(f"max_queued_tokens must be 1 or more, not {self.max_queued_tokens}")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("TLS needs both ssl_certfile and ssl_keyfile")
        if "" in self.served_model_name:
            raise ConfigError("served_model_name must not be empty")
        for key in self.api_key:
            check_api_key(key, "api_key")

    @property
    def scheme(self) -> str:
        return "https" if self.ssl_certfile is not None else "http"


def check_api_key(key: str, where: str) -> None:
    """A key is what an Authorization header can carry."""
    if not key or len(key) > 4_096 or not all("!" <= char <= "~" for char in key):
        raise ConfigError(f"{where}: a key needs 1 to 4096 printable ASCII characters without blanks")


TABLES: dict[str, type] = {"engine": EngineConfig, "serve": ServeConfig}


def load_toml(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The [engine] and [serve] tables of a configuration file, by field name; `ConfigError` names file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    lines = text.splitlines()
    for name, table in tables.items():
        if name not in TABLES:
            raise ConfigError(f"{path}, {_line(lines, '', name)}: unknown table {name!r}{_nearest(name, [*TABLES])}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}, {_line(lines, '', name)}: write [{name}] and its keys below it")
        known = [entry.name for entry in fields(TABLES[name])]
        for key in table:
            if key not in known:
                where = f"{path}, {_line(lines, name, key)}"
                raise ConfigError(f"{where}: unknown key {key!r} in [{name}]{_nearest(key, known)}")
    return tables.get("engine", {}), {key: _frozen(value) for key, value in tables.get("serve", {}).items()}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _line(lines: list[str], table: str, key: str) -> str:
    """`line 7` of a key in a table ("" is the top, where tables themselves stand); tomllib does not tell."""
    current = ""
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if stripped.startswith("["):
            current = stripped.strip("[]").split("]")[0].strip().strip("\"'")
            if table == "" and current.split(".")[0] == key:
                return f"line {number}"
        name = stripped.partition("=")[0].strip().strip("\"'")
        if current == table and (name == key or name.split(".")[0] == key):
            return f"line {number}"
    return f"table [{table}]" if table else "top"


def _check_type(name: str, value: object, hint: Any) -> None:
    if value is None and type(None) in get_args(hint):
        return
    if name in SERVE_CHOICES:
        if value not in SERVE_CHOICES[name]:
            raise ConfigError(f"{name} must be one of {', '.join(SERVE_CHOICES[name])}, not {value!r}")
    elif hint == tuple[str, ...]:
        if not isinstance(value, tuple) or not all(isinstance(entry, str) for entry in value):
            raise ConfigError(f"{name} must be a list of strings, not {value!r}")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, not {value!r}")
    elif hint in (str, str | None):
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be a string, not {value!r}")
    elif hint in (int, int | None):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} must be an integer, not {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}")
