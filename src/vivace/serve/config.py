"""What the server was asked for, as values: default < file < flag."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vivace.core.errors import ConfigError
from vivace.core.option_types import check_types

LogFormat = Literal["text", "json"]

SERVE_CHOICES: dict[str, tuple[str, ...]] = {"log_format": get_args(LogFormat)}
_COUNTS = (
    "max_connections",
    "max_header_bytes",
    "max_headers",
    "max_body_bytes",
    "max_queued_requests",
    "max_queued_tokens",
)
_SECONDS = (
    "header_timeout_s",
    "body_timeout_s",
    "keep_alive_timeout_s",
    "send_timeout_s",
    "max_queue_s",
    "request_timeout_s",
    "load_timeout_s",
    "drain_timeout",
)


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
    # the life
    load_timeout_s: float = 600.0
    drain_timeout: float = 30.0
    log_format: LogFormat = "text"
    access_log: bool = True
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, not {value}")
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number of seconds above 0, not {value}")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("TLS needs both ssl_certfile and ssl_keyfile")
        if self.otlp_endpoint is not None and not re.fullmatch(r"https?://[!-~]+", self.otlp_endpoint):
            raise ConfigError(f"otlp_endpoint must be a URL like http://localhost:4318, not {self.otlp_endpoint!r}")
        if "" in self.served_model_name:
            raise ConfigError("served_model_name must not be empty")
        for key in self.api_key:
            check_api_key(key, "api_key")

    @property
    def scheme(self) -> str:
        return "https" if self.ssl_certfile is not None else "http"

    def all_api_keys(self) -> tuple[str, ...]:
        """Of `api_key` and of the file, in which a line is a key and `#` begins a comment."""
        if self.api_key_file is None:
            return self.api_key
        try:
            lines = Path(self.api_key_file).read_text(encoding="ascii").splitlines()
        except OSError as error:
            raise ConfigError(f"cannot read {self.api_key_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.api_key_file}: a key is plain ASCII") from None
        stripped = {number: line.strip() for number, line in enumerate(lines, 1)}
        keys = {number: key for number, key in stripped.items() if key and not key.startswith("#")}
        if not keys:
            raise ConfigError(f"{self.api_key_file} has no key: write one a line")
        for number, key in keys.items():
            check_api_key(key, f"{self.api_key_file}, line {number}")
        return tuple(dict.fromkeys((*self.api_key, *keys.values())))


def check_api_key(key: str, where: str) -> None:
    """A key is what an Authorization header can carry."""
    if not key or len(key) > 4_096 or not all("!" <= char <= "~" for char in key):
        raise ConfigError(f"{where}: a key needs 1 to 4096 printable ASCII characters without blanks")
