"""What the tests of hostile HTTP ask of a server in between."""

from __future__ import annotations

import json
from contextlib import suppress
from http.client import RemoteDisconnected

from raw_http import Answer, exchange, request_bytes
from served_process import API_KEY, SMALL

MAX_CONNECTIONS = 64
LIMITS = {
    "header-timeout-s": 1.0,
    "body-timeout-s": 2.0,
    "keep-alive-timeout-s": 1.0,
    "send-timeout-s": 1.0,
    "max-connections": MAX_CONNECTIONS,
}
STRICT = (*SMALL, *(word for name, value in LIMITS.items() for word in (f"--{name}", str(value))))

JSON_TYPE = {"Content-Type": "application/json"}
COMPLETION = json.dumps({"prompt": "Once", "max_tokens": 3, "temperature": 0}).encode()


def complete(port: int, body: bytes = COMPLETION, headers: dict[str, str] | None = None) -> Answer:
    """A completion, with the key."""
    return exchange(
        port, request_bytes("POST", "/v1/completions", {**JSON_TYPE, **(headers or {})}, body, key=API_KEY)
    )


def chunked_head() -> bytes:
    """Of a completion whose body comes in chunks."""
    return request_bytes("POST", "/v1/completions", {**JSON_TYPE, "Transfer-Encoding": "chunked"}, key=API_KEY)


def chunks(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def is_healthy(port: int) -> bool:
    with suppress(RemoteDisconnected, ConnectionResetError):
        return exchange(port, request_bytes(target="/health")).status == 200
    return False
