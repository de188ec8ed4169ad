"""One request over HTTP, from the moment it is due to its record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from vivace.bench.load.answer import StreamedAnswer
from vivace.bench.load.body import request_body
from vivace.bench.load.client import HttpClient
from vivace.bench.load.clock import Clock
from vivace.bench.load.conductor import Exchange
from vivace.bench.load.connection import ConnectionLost
from vivace.bench.load.progress import RunProgress
from vivace.bench.load.target import Target
from vivace.bench.records import RequestRecord, Status
from vivace.bench.traffic.request import TrafficRequest

DEFAULT_RETRY_S = 1.0


@dataclass(slots=True)
class _Attempt:
    """What came of one try. `sent_s` is None where there was no connection."""

    answer: StreamedAnswer
    sent_s: float | None = None
    status: Status = "ok"
    error: str | None = None
    is_unreachable: bool = False


class HttpSender:
    """Sends to one target; counts into `progress`."""

    def __init__(self, client: HttpClient, target: Target, clock: Clock, progress: RunProgress) -> None:
        self._client = client
        self._target = target
        self._clock = clock
        self._progress = progress

    async def send(self, request: TrafficRequest, due_s: float) -> Exchange:
        path, body = request_body(request, self._target)
        content = self._client.request("POST", path, body)
        self._progress.num_sent += 1
        self._progress.num_running += 1
        try:
            attempt = await self._attempt(request, content, due_s)
            sent_s = attempt.sent_s  # what comes later is the server's wish, no lag of this generator
            for _ in range(self._target.num_retries):
                if attempt.status != "refused":
                    break
                await asyncio.sleep(_retry_after_s(attempt.answer))
                attempt = await self._attempt(request, content, due_s)
        finally:
            self._progress.num_running -= 1
        record = self._record(request, due_s, sent_s, attempt)
        self._progress.ended(record)
        return Exchange(record, attempt.answer.text, attempt.is_unreachable)

    async def _attempt(self, request: TrafficRequest, content: bytes, due_s: float) -> _Attempt:
        attempt = _Attempt(StreamedAnswer(_TokenCount(self._progress, due_s)))
        try:
            async with asyncio.timeout(None) as limit:
                await self._exchange(attempt, content, due_s, limit, request.cancel_after_s)
        except TimeoutError:
            has_left = request.cancel_after_s is not None and request.cancel_after_s <= self._target.timeout_s
            attempt.status = "cancelled" if has_left else "error"
            attempt.error = None if has_left else f"no whole answer within {self._target.timeout_s:g} s"
        except ConnectionLost as error:
            came = "its answer" if error.had_begun else "any answer"
            attempt.status, attempt.error = "error", f"connection lost before the end of {came}: {error}"
        except OSError as error:
            attempt.status, attempt.error = "error", f"no connection: {error}"
            attempt.is_unreachable = True
        else:
            attempt.status, attempt.error = attempt.answer.outcome()
        return attempt

    async def _exchange(
        self, attempt: _Attempt, content: bytes, due_s: float, limit: asyncio.Timeout, cancel_after_s: float | None
    ) -> None:
        connection = await self._client.connected()
        await self._clock.sleep_until(due_s)
        if not connection.is_open:  # closed while it waited
            connection = await self._client.connected()
        patience_s = min(self._target.timeout_s, cancel_after_s or self._target.timeout_s)
        limit.reschedule(asyncio.get_running_loop().time() + patience_s)
        attempt.sent_s = self._clock.now()
        await self._client.exchange(connection, content, attempt.answer)

    def _record(
        self, request: TrafficRequest, due_s: float, sent_s: float | None, attempt: _Attempt
    ) -> RequestRecord:
        answer, now = attempt.answer, self._clock.now()
        ended_s = answer.ended if answer.ended is not None else now
        token_s = answer.token_s(ended_s)
        return RequestRecord(
            index=request.index,
            intended_s=due_s,
            sent_s=now if sent_s is None else sent_s,
            ended_s=ended_s,
            status=attempt.status,
            prompt_len=request.prompt_len if answer.num_prompt_tokens is None else answer.num_prompt_tokens,
            output_len=len(token_s),
            token_s=token_s,
            queue_s=answer.queue_s,
            num_cached_tokens=answer.num_cached_tokens,
            error=attempt.error,
        )


class _TokenCount:
    """Tokens of one answer on their way into the progress."""

    __slots__ = ("_due_s", "_last_s", "_progress")

    def __init__(self, progress: RunProgress, due_s: float) -> None:
        self._progress = progress
        self._due_s = due_s
        self._last_s: float | None = None

    def __call__(self, when_s: float, number: int) -> None:
        progress = self._progress
        progress.num_tokens += number
        if self._last_s is None:
            progress.first_token_s.append(when_s - self._due_s)
        elif when_s > self._last_s:
            progress.gap_s.append(when_s - self._last_s)
        self._last_s = when_s


def _retry_after_s(answer: StreamedAnswer) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", DEFAULT_RETRY_S)))
    except ValueError:
        return DEFAULT_RETRY_S  # a date: servers of this kind send seconds
