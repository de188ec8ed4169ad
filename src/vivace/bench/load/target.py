"""What traffic is sent to."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vivace.bench.load.address import Address
from vivace.bench.load.dialect import DIALECTS, Dialect, Kind

Endpoint = Literal["chat", "completions"]
PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how to speak to it. `examine` (preflight) fills in what is None, and the server's kind.

    `extra` is added to the body of every request; a value of None takes a field out. `max_concurrency` bounds the
    requests in flight of an open loop: those that it holds back still count from the moment they were due.
    """

    address: Address
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    kind: Kind = "openai"
    endpoint: Endpoint | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_concurrency: int | None = None
    num_retries: int = 0  # of a refused request, after its Retry-After
    timeout_s: float = 600.0  # of one request
    process: int | None = None  # of a local server, for its memory
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.kind]
