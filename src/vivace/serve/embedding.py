"""The inputs of one embeddings request on their way through the engine, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from vivace.core.errors import DeadlineError, EngineError, OverloadedError, RequestError, UnavailableError
from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.serve.admission import Admission, Ticket
from vivace.serve.metrics import RequestMetrics, ServerMetrics
from vivace.worker.job import Job
from vivace.worker.supervisor import EngineClient

MAX_AT_ONCE = 64  # inputs of 8 tokens fill a step of 512; more would only keep others waiting
BYTES_PER_ID = 4  # what a token id counts at the door, where text counts its bytes
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

    The first input is let in at once, from its bytes alone, or the request is refused; as many more as find room come
    with it. The others follow when one before them has ended, so that 2,048 inputs neither fill the queue nor hold
    the engine. Where one of those finds no room, the request goes on with fewer at once, and is refused only when
    none of its inputs is under way.
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
        self._left = deque(range(len(inputs)))
        self._num_workers = 0

    async def run(self) -> None:
        """Returns when every vector was kept. Whatever it raises, nothing of it runs on.

        Raises `OverloadedError`, `RequestError` (param: input), `DeadlineError`, `UnavailableError`, `EngineError`.
        """
        deadline = self._order.deadline
        delay_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        with ExitStack() as tickets:
            first = self._first_tickets(tickets)
            self._num_workers = len(first)
            try:
                async with asyncio.timeout(delay_s), asyncio.TaskGroup() as workers:
                    for number, ticket in enumerate(first):
                        workers.create_task(self._work(number, ticket))
            except TimeoutError:
                raise DeadlineError("the request took longer than its timeout allows; it was ended") from None
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _first_tickets(self, exits: ExitStack) -> list[Ticket]:
        tickets = [exits.enter_context(self._enter(self._left.popleft()))]
        with suppress(OverloadedError):
            while self._left and len(tickets) < MAX_AT_ONCE:
                tickets.append(exits.enter_context(self._enter(self._left[0])))
                self._left.popleft()
        return tickets

    async def _work(self, number: int, ticket: Ticket) -> None:
        """One input after the other."""
        while True:
            with ticket, self._counted(ticket) as metrics:
                self._keep(number, await self._embed(number, ticket, metrics))
            if not self._left:
                break
            try:
                ticket = self._enter(self._left[0])
            except OverloadedError:
                if self._num_workers == 1:
                    raise
                break
            number = self._left.popleft()
        self._num_workers -= 1

    def _enter(self, number: int) -> Ticket:
        entry, order = self._inputs[number], self._order
        num_bytes = len(entry.encode()) if isinstance(entry, str) else BYTES_PER_ID * len(entry)
        return self._admission.enter(key=order.key, num_bytes=num_bytes, max_tokens=0, priority=order.priority)

    @contextmanager
    def _counted(self, ticket: Ticket) -> Iterator[RequestMetrics]:
        metrics = self._metrics.begin(ticket.entered)
        try:
            yield metrics
        except BaseException as error:
            metrics.finished("abort" if isinstance(error, ABORTS) else "error")
            raise
        metrics.finished("stop")

    async def _embed(self, number: int, ticket: Ticket, metrics: RequestMetrics) -> list[float]:
        entry, order = self._inputs[number], self._order
        try:
            prompt = await self._encode(entry) if isinstance(entry, str) else entry
            ticket.measured(len(prompt), 0)
            await ticket.turn(order.deadline)
            metrics.turn()
            job = Job(f"{order.request_id}-{number}", prompt, PARAMS, order.priority, order.cache_salt, order.pooling)
            vector = await self._pooled(job, ticket)
        except RequestError as error:
            error.param = "input" if error.param == "prompt" else error.param
            raise
        metrics.first_token(len(prompt))
        self.num_prompt_tokens += len(prompt)
        return vector

    async def _pooled(self, job: Job, ticket: Ticket) -> list[float]:
        stream = self._engine.submit(job)
        events: list[TokenEvent] = []
        try:
            async for batch in stream:
                events += batch
        finally:
            if not stream.is_finished:
                stream.abort()
        last = events[-1]
        if last.finish == "abort":
            raise UnavailableError("the engine was stopped", retry_after_s=1.0)
        if stream.embedding is None:
            raise EngineError(f"request {job.request_id}: {last.stop_reason}")
        ticket.first_token(stream.num_cached_tokens)
        return stream.embedding
