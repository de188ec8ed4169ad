"""A load generator's HTTP client: keep-alive connections, bytes and times kept as they come, parsed afterwards.

It does so little for a chunk (3 µs) that it hardly disturbs the server it shares two cores with.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast


@dataclass(slots=True)
class Answer:
    """Times are seconds on the monotonic clock."""

    sent: float
    status: int = 0
    events_at: list[float] = field(default_factory=list)  # when server-sent events with text came
    finished: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def first_event_s(self) -> float:
        return self.events_at[0] - self.sent

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line[6:]) for line in lines]

    @property
    def num_tokens(self) -> int:
        """Of a stream with `include_usage`."""
        return int(self._usage["completion_tokens"]) if self._usage else 0

    @property
    def num_cached_tokens(self) -> int:
        return int(self._usage["prompt_tokens_details"]["cached_tokens"]) if self._usage else 0

    @property
    def _usage(self) -> dict[str, Any]:
        events = self.events
        return (events[-1].get("usage") if events else None) or {}

    @property
    def mean_gap_s(self) -> float:
        """Between tokens, from the first to the last; some have no text of their own and come with the next."""
        return (self.events_at[-1] - self.events_at[0]) / (self.num_tokens - 1)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self._answer: Answer | None = None
        self._done: asyncio.Future[Answer] | None = None
        self._data = bytearray()
        self._body_start = -1
        self._body_len: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.is_open = True

    def exchange(self, request: bytes) -> asyncio.Future[Answer]:
        assert self.transport is not None
        self._data.clear()
        self._body_start, self._body_len = -1, None
        self._done = asyncio.get_running_loop().create_future()
        self._answer = Answer(time.monotonic())
        self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        answer, now = self._answer, time.monotonic()
        if answer is None:
            return
        self._data += data
        if self._body_start < 0:
            self._read_head(answer)
        if self._body_len is None:  # chunked
            if b'"text":' in data:
                answer.events_at.append(now)
            if data.endswith(b"0\r\n\r\n"):
                self._end(answer, now)
        elif len(self._data) >= self._body_start + self._body_len:
            self._end(answer, now)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _read_head(self, answer: Answer) -> None:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        status, *lines = bytes(self._data[:end]).decode("latin-1").split("\r\n")
        answer.status = int(status.split(" ", 2)[1])
        answer.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self._body_start = end + 4
        if "content-length" in answer.headers:
            self._body_len = int(answer.headers["content-length"])

    def _end(self, answer: Answer, now: float) -> None:
        answer.finished = now
        answer.body = bytes(self._data[self._body_start :])
        self._answer = None
        if self._done is not None and not self._done.done():
            self._done.set_result(answer)


class Client:
    """Connections to one server; each carries one exchange at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        return await self.send(self.prepared(path, body))

    def prepared(self, path: str, body: dict[str, Any]) -> bytes:
        """The bytes of a request, to be sent when it is due."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    async def send(self, request: bytes) -> Answer:
        connection = await self._connected()
        answer = await connection.exchange(request)
        self._idle.append(connection)
        return answer

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self._host, self._port))[1]

    def close(self) -> None:
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()
