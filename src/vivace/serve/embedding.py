"""The inputs of one embeddings request on their way through the engine, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vivace.core.errors import DeadlineError, EngineError, OverloadedError, RequestError, UnavailableError
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.serve.admission import Admission, Ticket
from vivace.serve.metrics import RequestMetrics, ServerMetrics
from vivace.serve.stories import MAX_PROMPTS, PromptStory, RequestStory
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient

MAX_AT_ONCE = 64  # inputs of 8 tokens fill a step of 512
STEPS_AHEAD = 2  # one runs, the next one lies ready; more would only keep others waiting
BYTES_PER_TOKEN = 4  # of English text; and what a token id counts at the door, where text counts its bytes
ABORTS = (asyncio.CancelledError, DeadlineError)  # its client left, or its time was over
PARAMS = SamplingParams(max_tokens=0, seed=0)

Input = str | list[int]


@dataclass(frozen=True, slots=True)
class EmbeddingOrder:
    """What a request wants for each of its inputs. `deadline` is on the monotonic clock."""

    request_id: str
    key: str  # the unit of fairness
    pooling: Pooling
    priority: int = 0
    cache_salt: bytes = b""
    deadline: float | None = None


class EmbeddingBatch:
    """Embeds a list of inputs; `keep(number, vector)` gets each one's vector when it is there, in any order.

    The first input is let in at once, from its bytes alone, or the request is refused. Others come with it and after
    it, as many as keep the engine busy: 2,048 inputs neither fill the queue nor stand before everybody else. Where
    one of those finds no room, the request goes on with fewer, and is refused only when none of its inputs is under
    way.
    """

    def __init__(
        self,
        engine: EngineClient,
        admission: Admission,
        metrics: ServerMetrics,
        encode: Callable[[str], Awaitable[list[int]]],
        order: EmbeddingOrder,
        inputs: Sequence[Input],
        keep: Callable[[int, list[float]], None],
    ) -> None:
        self.num_prompt_tokens = 0
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._encode = encode
        self._order = order
        self._inputs = inputs
        self._keep = keep
        self.story = RequestStory(order.request_id, order.key, len(inputs), int(time.time()))
        self._left = deque(range(len(inputs)))

    async def run(self) -> None:
        """Returns when every vector was kept. Whatever it raises, nothing of it runs on.

        Raises `OverloadedError`, `RequestError` (param: input), `DeadlineError`, `UnavailableError`, `EngineError`.
        """
        deadline = self._order.deadline
        delay_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(delay_s):
                await self._run()
        except TimeoutError:
            raise DeadlineError("the request took longer than its timeout allows; it was ended") from None

    async def _run(self) -> None:
        under_way: dict[asyncio.Task[None], Ticket] = {}
        try:
            while self._left or under_way:
                self._begin_more(under_way)
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                    del under_way[task]
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            for ticket in under_way.values():  # a task that never ran did not release its own
                ticket.release(finished=False)

    def _begin_more(self, under_way: dict[asyncio.Task[None], Ticket]) -> None:
        """Raises `OverloadedError` where nothing is under way and nothing can be."""
        max_bytes = STEPS_AHEAD * BYTES_PER_TOKEN * self._engine.info.max_num_batched_tokens
        num_bytes = sum(ticket.num_bytes for ticket in under_way.values())
        while self._left and len(under_way) < MAX_AT_ONCE:
            number = self._left[0]
            num_bytes += self._num_bytes(number)
            if under_way and num_bytes > max_bytes:
                return
            try:
                ticket = self._enter(number)
            except OverloadedError:
                if under_way:
                    return
                raise
            self._left.popleft()
            under_way[asyncio.create_task(self._work(number, ticket))] = ticket

    async def _work(self, number: int, ticket: Ticket) -> None:
        story = PromptStory(f"{self._order.request_id}-{number}", ticket.entered)
        if number < MAX_PROMPTS:  # they begin in their order
            self.story.prompts.append(story)
        with ticket, self._counted(ticket, story) as metrics:
            self._keep(number, await self._embed(number, ticket, metrics, story))

    def _enter(self, number: int) -> Ticket:
        order = self._order
        return self._admission.enter(
            key=order.key, num_bytes=self._num_bytes(number), max_tokens=0, priority=order.priority
        )

    def _num_bytes(self, number: int) -> int:
        entry = self._inputs[number]
        return len(entry.encode()) if isinstance(entry, str) else BYTES_PER_TOKEN * len(entry)

    @contextmanager
    def _counted(self, ticket: Ticket, story: PromptStory) -> Iterator[RequestMetrics]:
        metrics = self._metrics.begin(ticket.entered)
        reason, failure = "stop", None
        try:
            yield metrics
        except BaseException as error:
            reason, failure = "abort" if isinstance(error, ABORTS) else "error", error
            raise
        finally:
            metrics.finished(reason)
            story.end(reason, failure)

    async def _embed(self, number: int, ticket: Ticket, metrics: RequestMetrics, story: PromptStory) -> list[float]:
        entry, order = self._inputs[number], self._order
        try:
            prompt = await self._encode(entry) if isinstance(entry, str) else entry
            ticket.measured(len(prompt), 0)
            story.prepared, story.num_prompt_tokens = time.monotonic(), len(prompt)
            await ticket.turn(order.deadline)
            metrics.turn()
            story.has_turn(ticket)
            job = Job(story.job_id, prompt, PARAMS, order.priority, order.cache_salt, order.pooling)
            vector = await self._pooled(job, ticket, story)
        except RequestError as error:
            error.param = "input" if error.param == "prompt" else error.param
            raise
        metrics.first_token(len(prompt))
        self.num_prompt_tokens += len(prompt)
        return vector

    async def _pooled(self, job: Job, ticket: Ticket, story: PromptStory) -> list[float]:
        stream = self._engine.submit(job)
        story.follow(stream)
        events: list[TokenEvent] = []
        try:
            async for batch in stream:
                events += batch
        finally:
            if not stream.is_finished:
                stream.abort()
            story.note(stream)
        last = events[-1]
        if last.finish == "abort":
            raise UnavailableError("the engine was stopped", retry_after_s=1.0)
        if stream.embedding is None:
            raise EngineError(f"request {job.request_id}: {last.stop_reason}")
        ticket.first_token(stream.num_cached_tokens)
        return stream.embedding
