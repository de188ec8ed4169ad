"""One request's tokens as they come, for one asyncio reader, and what must be known to continue it elsewhere."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from vivace.core.account import RequestAccount
from vivace.core.errors import VivaceError
from vivace.core.events import RequestTimings, TokenEvent, TokenLogprobs
from vivace.worker.job import Job


class StreamOwner(Protocol):
    """Where a stream turns when its reader wants less."""

    def end_early(self, stream: TokenStream) -> None: ...

    def end_continuation(self, stream: TokenStream, index: int, reason: str) -> None: ...


class TokenStream:
    """`async for events in stream`: each item is what came since the last one (of one step, unless the reader was
    slow); it ends after the last continuation's finish.

    The iteration raises `RequestError` or `ContextLengthError` where the engine refused the request, `EngineError`
    where the engine died twice over it or was closed. Times are on the machine's monotonic clock. Queued items are
    the request's own tokens, no more: a slow reader holds nobody up.
    """

    def __init__(self, job: Job, owner: StreamOwner, arrival: float) -> None:
        self.job = job
        self.timings = RequestTimings(arrival)
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.embedding: list[float] | None = None
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.emitted: list[list[int] | None] = [[] for _ in range(job.params.n)]  # None: that continuation has ended
        self.num_unfinished = job.params.n  # continuations
        self.when_finished: Callable[[], None] | None = None  # called once the last event is there, read or not
        self.num_restarts = 0  # of the engine, while it had the request
        self.when_accounted: Callable[[RequestAccount], None] | None = None  # may come after the last event
        self._owner = owner
        self._scores: list[TokenLogprobs | None] = []
        self._batches: deque[list[TokenEvent]] = deque()
        self._error: VivaceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> list[TokenEvent]:
        batches = self._batches
        while not batches:
            if self._error is not None:
                raise self._error
            if not self.num_unfinished:
                raise StopAsyncIteration
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        events = batches.popleft()
        while batches:
            events = events + batches.popleft()
        return events

    @property
    def is_finished(self) -> bool:
        """Whether every continuation has ended; items may still be unread."""
        return not self.num_unfinished

    def abort(self) -> None:
        """End every continuation with "abort", at once for the reader and within one step in the engine."""
        self._owner.end_early(self)

    def stop(self, index: int, reason: str) -> None:
        """End one continuation because its text reached the stop string `reason`."""
        self._owner.end_continuation(self, index, reason)

    def deliver(self, events: list[TokenEvent]) -> None:
        """Note what a step brought and wake the reader. What comes after a continuation's end is dropped.

        The hot path of the front: once for every stream of every step.
        """
        emitted = self.emitted
        if self.num_unfinished < len(emitted):
            events = [event for event in events if emitted[event.index] is not None]
            if not events:
                return
        for event in events:
            tokens = emitted[event.index]
            if tokens is not None and event.token is not None:
                tokens.append(event.token)
            if event.finish is not None:
                emitted[event.index] = None
                self.num_unfinished -= 1
        self._batches.append(events)
        self._wake()
        if not self.num_unfinished and self.when_finished is not None:
            self.when_finished()

    def add_scores(self, logprobs: list[TokenLogprobs | None]) -> None:
        """The next of the prompt's log probabilities; `prompt_logprobs` is there once all have come."""
        self._scores += logprobs
        if len(self._scores) == len(self.job.prompt):
            self.prompt_logprobs = self._scores

    def drop_partial_scores(self) -> None:
        """The engine died: it will begin anew with them."""
        if self.prompt_logprobs is None:
            self._scores = []

    def fail(self, error: VivaceError) -> None:
        """End with an error, behind the items that are there."""
        self.emitted = [None] * len(self.emitted)
        self.num_unfinished = 0
        self._error = error
        self._wake()
        if self.when_finished is not None:
            self.when_finished()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
