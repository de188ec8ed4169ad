"""What the tests of hostile HTTP ask of a server in between."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from http.client import RemoteDisconnected

from raw_http import Answer, RawConnection, exchange, request_bytes
from served_process import API_KEY, SMALL

MAX_CONNECTIONS = 64
HEADER_TIMEOUT_S = 1.0  # of a hasty server
STRICT = (
    *SMALL,
    *("--max-connections", str(MAX_CONNECTIONS), "--send-timeout-s", "1"),
    *("--header-timeout-s", "60", "--body-timeout-s", "60", "--keep-alive-timeout-s", "60"),  # tests may stand still
)
HASTY = (
    *SMALL,
    *("--max-connections", str(MAX_CONNECTIONS), "--header-timeout-s", str(HEADER_TIMEOUT_S)),
    *("--body-timeout-s", "2", "--keep-alive-timeout-s", "1"),
)

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


def prompt_connection(port: int, data: bytes) -> RawConnection:
    """One on which `data` was sent in time for a hasty server: where this process stood still, another one."""
    while True:
        began = time.monotonic()
        connection = RawConnection(port).send(data)
        if time.monotonic() - began < HEADER_TIMEOUT_S / 2:
            return connection
        connection.socket.close()


def is_healthy(port: int) -> bool:
    with suppress(RemoteDisconnected, ConnectionResetError):
        return exchange(port, request_bytes(target="/health")).status == 200
    return False
