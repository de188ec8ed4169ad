"""The load generator's client for benches that look at single answers: bytes and times kept, read when all is over.

It does so little for a chunk (4 µs) that it hardly disturbs the server it shares two cores with.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from vivace.bench.load.address import Address
from vivace.bench.load.answer import StreamedAnswer
from vivace.bench.load.client import HttpClient


class Answer:
    """Times are seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.sent = time.perf_counter()
        self.status = 0
        self.finished = 0.0
        self.headers: dict[str, str] = {}
        self._pieces: list[tuple[float, bytes]] = []

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers

    def receive(self, when: float, data: bytes) -> None:
        self._pieces.append((when, data))

    def end(self, when: float) -> None:
        self.finished = when

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self._pieces)

    @cached_property
    def _stream(self) -> StreamedAnswer:
        stream = StreamedAnswer()
        stream.begin(self.status, self.headers)
        for when, data in self._pieces:
            stream.receive(when, data)
        stream.end(self.finished)
        return stream

    @cached_property
    def token_s(self) -> tuple[float, ...]:
        """When each token came; some have no text of their own and come with the next."""
        return self._stream.token_s(self.finished)

    @property
    def first_event_s(self) -> float:
        return self.token_s[0] - self.sent

    @property
    def num_tokens(self) -> int:
        """Of a stream with `include_usage`."""
        return self._stream.num_tokens or 0

    @property
    def num_cached_tokens(self) -> int:
        return self._stream.num_cached_tokens or 0

    @property
    def mean_gap_s(self) -> float:
        """Between tokens, from the first to the last."""
        return (self.token_s[-1] - self.token_s[0]) / (self.num_tokens - 1)


class Client:
    """Connections to one server; each carries one exchange at a time. To be made on a running loop."""

    def __init__(self, host: str, port: int) -> None:
        self._http = HttpClient(Address(host, port, False), time.perf_counter)

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        return await self.send(self.prepared(path, body))

    def prepared(self, path: str, body: dict[str, Any]) -> bytes:
        """The bytes of a request, to be sent when it is due."""
        return self._http.request("POST", path, body)

    async def send(self, request: bytes) -> Answer:
        connection = await self._http.connected()
        answer = Answer()
        await self._http.exchange(connection, request, answer)
        return answer

    def close(self) -> None:
        self._http.close()
