"""HTTP written by hand, for what no client would send."""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; everything that is refused has one."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        return dict(error)


class RawConnection:
    """One connection to a server on loopback."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> RawConnection:
        """As much as the server takes: it may close before the end."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)
        return self

    def answer(self) -> Answer:
        response = HTTPResponse(self.socket)
        response.begin()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def rest(self) -> bytes:
        """What still comes until the server ends the connection."""
        parts = []
        with suppress(ConnectionResetError):
            while part := self.socket.recv(65_536):
                parts.append(part)
        return b"".join(parts)

    def has_answer(self) -> bool:
        """Whether something came, without waiting for it."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def is_closed(self) -> bool:
        """Waits until the server ends the connection; what still comes is thrown away."""
        self.rest()
        return True


def request_bytes(
    method: str = "GET",
    target: str = "/v1/models",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    key: str | None = None,
) -> bytes:
    """A request with a Host, a key where one is given, and a length where there is a body."""
    lines = {"Host": "localhost", **({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    if body and "Content-Length" not in lines and "Transfer-Encoding" not in lines:
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def exchange(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    with RawConnection(port) as connection:
        return connection.send(data).answer()
