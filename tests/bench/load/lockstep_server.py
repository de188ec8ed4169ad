"""A server on the run's own loop, in a time that moves when it says so: no machine is too busy for exact figures."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from vivace.bench.load.progress import RunProgress

T = TypeVar("T")
TOKENS_AN_EVENT = 2
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class ToldClock:
    """Stands where a run's `MonotonicClock` does. `elapsed_s` is what moves; waiting for a moment leaps there."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self._start = 0.0

    def start(self, lead_s: float = 0.0) -> None:
        self._start = self.elapsed_s + lead_s

    def now(self) -> float:
        return self.elapsed_s - self._start

    async def sleep_until(self, moment: float) -> None:
        self.elapsed_s = max(self.elapsed_s, self._start + moment)
        await asyncio.sleep(0)

    def play(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """On a loop whose timers follow this clock; sockets are real."""
        loop = asyncio.SelectorEventLoop()
        loop.time = lambda: self.elapsed_s  # type: ignore[method-assign]
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(coroutine)


class LockstepServer:
    """Answers the trial at once. Every other answer has an event after each of `gaps_s`, which is when time moves on;
    it then waits until `progress` has counted the event's tokens. An answer `is_endless` waits to be left, after
    `patience_s`. Its first /metrics takes `metrics_s`."""

    def __init__(
        self,
        clock: ToldClock,
        progress: RunProgress,
        gaps_s: tuple[float, ...],
        *,
        metrics: str = "",
        metrics_s: float = 0.0,
        patience_s: float | None = None,
    ) -> None:
        self._clock, self._progress = clock, progress
        self._gaps_s, self._patience_s = gaps_s, patience_s
        self._metrics, self._metrics_s = metrics, metrics_s
        self._conversations: set[asyncio.Task[Any]] = set()
        self.num_streams = 0
        self.num_left = 0

    async def serve(self, run: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        """`run` gets the server's address."""
        listening = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        async with listening:
            found = await run(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            await asyncio.gather(*self._conversations)  # the run has closed its connections
        return found

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._conversations.add(cast("asyncio.Task[Any]", asyncio.current_task()))
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"Content-Length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await self._answer(head.split()[1], reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path == "/metrics":
            self._clock.elapsed_s += self._metrics_s
            self._metrics_s = 0.0
            writer.write(_whole(self._metrics.encode()))
        elif path == "/v1/models":
            writer.write(_whole(json.dumps({"data": [{"id": "mock", "owned_by": "vllm"}]}).encode()))
        else:
            self.num_streams += 1
            await self._stream(reader, writer, is_trial=self.num_streams == 1)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_trial: bool) -> None:
        writer.write(HEAD)
        num_before = self._progress.num_tokens
        for number, gap_s in enumerate(self._gaps_s, 1):
            num_tokens = TOKENS_AN_EVENT * number
            self._clock.elapsed_s += 0.0 if is_trial else gap_s
            writer.write(_event([{"index": 0, "text": " word word"}], num_tokens))
            while not is_trial and self._progress.num_tokens < num_before + num_tokens:
                await asyncio.sleep(0)
        if self._patience_s is not None and not is_trial:
            self._clock.elapsed_s += self._patience_s
            await reader.read()
            self.num_left += 1
            return
        last = _event([], TOKENS_AN_EVENT * len(self._gaps_s), timings={"queue_ms": 3.0})
        writer.write(last + _framed("[DONE]") + b"0\r\n\r\n")


def _whole(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


def _event(choices: list[dict[str, Any]], num_tokens: int, **values: object) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": num_tokens, "prompt_tokens_details": {"cached_tokens": 2}}
    return _framed(json.dumps({"choices": choices, "usage": usage, **values}))


def _framed(data: str) -> bytes:
    content = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(content), content)
