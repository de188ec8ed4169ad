"""What is asked of a server before a run, and what happens between that and the first request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from vivace.bench.load import description
from vivace.bench.load.address import Address
from vivace.bench.load.client import HttpClient
from vivace.bench.load.preflight import examine
from vivace.bench.load.target import Target
from vivace.bench.traffic.request import TrafficRequest
from vivace.core.errors import TargetError

DEADLINE_S = 60
REQUESTS = (TrafficRequest(0, 3, 2, text="hello", arrival_s=0.0),)
MODELS = json.dumps({"data": [{"id": "mock", "owned_by": "vllm"}]}).encode()
STREAM = b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'

Answer = Callable[[str, dict[str, Any]], bytes | None]


def answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status, kind.encode(), len(body), body,
    )  # fmt: skip


def against(respond: Answer, act: Callable[[Target], Awaitable[Any]], **values: Any) -> Any:
    """`respond` takes path and body of each request; None: no answer ever comes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line), 0
                )
                body = json.loads(await reader.readexactly(length) or b"{}")
                said = respond(head.split()[1], body)
                if said is not None:
                    writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def whole() -> Any:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await act(Target(Address("127.0.0.1", server.sockets[0].getsockname()[1], False), **values))
        finally:
            server.close()

    return uvloop.run(whole())


async def examined(target: Target) -> Target:
    client = HttpClient(target.address, time.perf_counter)
    try:
        return await examine(client, target, REQUESTS)
    finally:
        client.close()


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "ANSWER_S", 0.05)
    with pytest.raises(TargetError, match=r"did not say within 0\.05 s what it serves"):
        against(lambda *_: None, examined)


def test_a_trial_that_gets_no_answer_ends_with_the_time_of_a_request() -> None:
    asked: list[str] = []

    def respond(path: str, _: dict[str, Any]) -> bytes | None:
        asked.append(path)
        return answer(200, MODELS) if path == "/v1/models" else None

    with pytest.raises(TargetError, match=r"no whole answer to a short request within 0\.05 s"):
        against(respond, examined, timeout_s=0.05)
    assert asked.count("/v1/completions") <= 1  # 0 where the server had no turn before the time was over


def test_a_busy_server_is_not_taken_for_one_that_knows_less() -> None:
    bodies: list[dict[str, Any]] = []

    def respond(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v1/models":
            return answer(200, MODELS)
        bodies.append(body)
        return answer(503, b'{"message": "loading"}')

    with pytest.raises(TargetError, match="refused with 503: loading; measure it when it is idle"):
        against(respond, examined)
    assert len(bodies) == 1


def test_a_server_that_knows_less_is_asked_with_fewer_fields() -> None:
    def respond(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v1/models":
            return answer(200, MODELS)
        if "continuous_usage_stats" in body.get("stream_options", {}) or "ignore_eos" in body:
            return answer(400, b'{"message": "unknown field"}')
        return answer(200, STREAM, "text/event-stream")

    target = against(respond, examined)
    assert (target.kind, target.extra) == ("vllm", {"ignore_eos": None, "stream_options": {"include_usage": True}})
