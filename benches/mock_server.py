"""A server with known latencies: each prompt is a script, and what was really sent when is told at /truth.

    python benches/mock_server.py [--owner vllm] [--key KEY] [--die-after N]

Prints the port it listens on. A script is a JSON object: `ttft` and `gap` in seconds, `chunk` tokens an event,
`count` how tokens are counted ("continuous", "final" or "none"), `status` and `retry_after` for a refusal,
`drop_after` events, `body` for an answer that is no stream, `queue_ms`, `cached`. Anything else is answered at once,
with as many tokens as `max_tokens` of the request says.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

AWAKE_S = 0.0015  # before an event is due, the server stops sleeping: loops wake at whole milliseconds
TEXT = " word"


@dataclass
class Script:
    """What happens to one request, from what its prompt says."""

    ttft: float = 0.0
    gap: float = 0.0
    chunk: int = 1
    count: str = "continuous"
    status: int = 200
    retry_after: str | None = None
    drop_after: int | None = None
    body: str | None = None
    queue_ms: float | None = None
    cached: int | None = None
    name: str = ""

    @classmethod
    def of(cls, prompt: object) -> Script:
        try:
            values = json.loads(prompt) if isinstance(prompt, str) else {}
        except ValueError:
            values = {}
        return cls(**values) if isinstance(values, dict) else cls()


@dataclass
class Truth:
    """Moments on the system's monotonic clock."""

    name: str
    arrived: float
    sent: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt: object = None


@dataclass
class Server:
    owner: str
    key: str | None
    die_after: int | None
    metrics: str
    truths: list[Truth] = field(default_factory=list)
    due: list[tuple[float, int, Stream]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    num_streams: int = 0
    num_ended: int = 0

    def push(self, when: float, stream: Stream) -> None:
        self.num_streams += 1
        heapq.heappush(self.due, (when, self.num_streams, stream))
        self.changed.set()

    async def play(self) -> None:
        """Send every event when it is due; sleeping while nothing is."""
        while True:
            if not self.due:
                self.changed.clear()
                await self.changed.wait()
                continue
            left_s = self.due[0][0] - time.perf_counter()
            if left_s > AWAKE_S:
                self.changed.clear()
                await _until(self.changed, left_s - AWAKE_S)
            elif left_s > 0:
                await asyncio.sleep(0)
            else:
                when, _, stream = heapq.heappop(self.due)
                stream.step(when)

    def ended(self) -> None:
        self.num_ended += 1
        if self.die_after is not None and self.num_ended >= self.die_after:
            os._exit(1)


async def _until(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


class Stream:
    """One streamed answer."""

    def __init__(
        self, server: Server, connection: Connection, script: Script, truth: Truth, body: dict[str, Any]
    ) -> None:
        self._server = server
        self._connection = connection
        self._script = script
        self._truth = truth
        self._is_chat = "messages" in body
        self._num_left = int(body.get("max_tokens", 16))
        self._num_sent = 0
        self._num_events = 0
        connection.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        server.push(truth.arrived + script.ttft, self)

    def step(self, when: float) -> None:
        script = self._script
        if not self._connection.is_open:
            return
        number = min(script.chunk, self._num_left)
        self._num_left -= number
        self._num_sent += number
        self._num_events += 1
        self._truth.tokens.append(number)
        event = self._event([self._choice(TEXT * number)], with_usage=script.count == "continuous")
        self._truth.sent.append(time.perf_counter())
        self._connection.write(_framed(event))
        if script.drop_after is not None and self._num_events >= script.drop_after:
            self._connection.drop()
        elif self._num_left:
            self._server.push(when + script.gap, self)
        else:
            self._end()

    def _end(self) -> None:
        last = self._event([], with_usage=self._script.count != "none", is_last=True)
        self._connection.write(_framed(last) + _framed("[DONE]") + b"0\r\n\r\n")
        self._server.ended()

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text}} if self._is_chat else {"index": 0, "text": text}

    def _event(self, choices: list[dict[str, Any]], *, with_usage: bool, is_last: bool = False) -> str:
        event: dict[str, Any] = {"id": "x", "object": "chunk", "choices": choices}
        if with_usage:
            event["usage"] = {"prompt_tokens": 7, "completion_tokens": self._num_sent}
            if self._script.cached is not None:
                event["usage"]["prompt_tokens_details"] = {"cached_tokens": self._script.cached}
        if is_last and self._script.queue_ms is not None:
            event["timings"] = {"queue_ms": self._script.queue_ms}
        return json.dumps(event)


def _framed(data: str) -> bytes:
    content = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(content), content)


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = b""
        self._key: str | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        self._arrived = time.perf_counter()
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body, self._key = url.decode(), b"", None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value.decode().removeprefix("Bearer ")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        server = self._server
        if server.key is not None and self._key != server.key:
            self.answer(401, {"error": {"message": "Incorrect API key", "type": "invalid_request_error"}})
        elif self._path == "/v1/models":
            self.answer(200, {"data": [{"id": "mock", "owned_by": server.owner}]})
        elif self._path == "/truth":
            self.answer(200, [truth.__dict__ for truth in server.truths])
        elif self._path == "/metrics" and server.metrics:
            self._respond(200, "text/plain", server.metrics.encode())
        elif self._path in ("/v1/completions", "/v1/chat/completions"):
            self._generate(json.loads(self._body))
        else:
            self.answer(404, {"error": {"message": "no such path"}})

    def _generate(self, body: dict[str, Any]) -> None:
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        script = Script.of(prompt)
        truth = Truth(script.name, self._arrived, prompt=body.get("messages", prompt))
        self._server.truths.append(truth)
        if script.status != 200:
            headers = f"Retry-After: {script.retry_after}\r\n" if script.retry_after else ""
            self.answer(script.status, {"error": {"message": "too much is queued", "type": "overloaded"}}, headers)
        elif script.body is not None:
            self._respond(200, "application/json", script.body.encode())
        else:
            Stream(self._server, self, script, truth, body)

    def answer(self, status: int, body: object, headers: str = "") -> None:
        self._respond(status, "application/json", json.dumps(body).encode(), headers)

    def _respond(self, status: int, kind: str, content: bytes, headers: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
        self.write(head.encode() + content)

    def write(self, data: bytes) -> None:
        if self.is_open:
            self._transport.write(data)  # asyncio's own loop sends at once, uvloop at the end of its turn

    def drop(self) -> None:
        self.is_open = False
        self._transport.abort()


async def serve(arguments: argparse.Namespace) -> None:
    server = Server(arguments.owner, arguments.key, arguments.die_after, arguments.metrics)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=2048)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await server.play()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", default="vllm")
    parser.add_argument("--key")
    parser.add_argument("--die-after", type=int, help="end the process when so many answers have ended")
    parser.add_argument("--metrics", default="", help="what /metrics answers")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
