"""Where a server is: what its users write, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from vivace.core.errors import ConfigError

PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """`path` goes before every route: empty, or as in `/openai` where a proxy puts the server there."""

    host: str
    port: int
    is_tls: bool
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """From `http://host:8000`, with or without a trailing `/v1`. Raises `ConfigError`."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is no address of a server: {error}") from None
        if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"{url!r} is no address of a server: write http://HOST:PORT or https://HOST")
        if any(not 32 < ord(character) < 127 for character in url):
            raise ConfigError(f"{url!r} is no address of a server: it has characters that no address has")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "https", path)

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"
