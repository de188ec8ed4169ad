"""The life of one prompt: admitted, tokenised, its turn, submitted; then text, piece by piece, until its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from vivace.core.errors import DeadlineError, EngineError, UnavailableError
from vivace.core.events import FinishReason, RequestTimings, TokenEvent, TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.engine.continuation import Continuation
from vivace.engine.model_limits import ModelLimits
from vivace.engine.tokenizer import Tokenizer
from vivace.serve.admission import Ticket
from vivace.serve.metrics import RequestMetrics
from vivace.serve.reasoning_count import ReasoningCount
from vivace.serve.stories import PromptStory
from vivace.worker.job import Job
from vivace.worker.stream import TokenStream
from vivace.worker.supervisor import EngineClient

COUNTED_TOKENS = 8  # half a block: the door counts blocks, at 2 us a time
READ_WAIT_S = 1.0  # a reader who follows takes the last tokens in milliseconds
REFUSAL_WAIT_S = 1.0  # how long an answer's status line waits for the engine's refusal or first token


@dataclass(frozen=True, slots=True)
class Order:
    """What a request wants for each of its prompts. `deadline` is on the monotonic clock."""

    params: SamplingParams
    priority: int = 0
    cache_salt: bytes = b""
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as ids. `params` are the order's, with what only the prompt's rendering could tell."""

    token_ids: list[int]
    params: SamplingParams
    count_reasoning: Callable[[], ReasoningCount] | None = None  # where the model thinks before it answers


@dataclass(slots=True)
class Piece:
    """What one continuation gained since its last piece; `finish_reason` with the last one."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class Generation:
    """One prompt with its `n` continuations. Use as a context manager: leaving it ends whatever still runs.

    `let_in`, `prepare` and `submit` bring it to the engine; then iterate over lists of pieces, at most one for each
    continuation. A slow reader gets larger pieces, not more of them: what came meanwhile is joined.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer | None,
        enter: Callable[[], Ticket],
        metrics: RequestMetrics,
        job_id: str,
        order: Order,
    ) -> None:
        """`enter` gets a ticket at the door, or raises `OverloadedError`."""
        self.story = PromptStory(job_id)
        self.arrived = self.story.arrived
        self.prompt: list[int] = []
        self.num_output_tokens = 0
        self._engine = engine
        self._enter = enter
        self._ticket: Ticket | None = None
        self._metrics = metrics
        self._job_id = job_id
        self._order = order
        self._params = order.params  # until it is prepared
        self._tokenizer = tokenizer
        self._continuations: list[Continuation] = []  # until it is prepared
        self._reasoning: list[ReasoningCount] = []  # one for each continuation, where the model thinks
        self._num_open = order.params.n  # continuations that have not ended
        self._stream: TokenStream | None = None
        self._first: list[Piece] = []
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._is_late = False
        self._has_begun = False
        self._num_uncounted = 0  # tokens that the door does not know of yet

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for timer in (self._deadline_timer, self._release_timer):
            if timer is not None:
                timer.cancel()
        if self._stream is not None and not self.is_finished and not self._is_late:
            self._stream.abort()
        has_ended = self.is_finished and kind is None
        self._release(has_ended)
        reason = self._ending(kind) if not has_ended else str(self._continuations[0].finish_reason)
        self._metrics.finished(reason)
        self._tell(reason, error)

    @property
    def is_finished(self) -> bool:
        """Whether every continuation has ended."""
        return self._num_open == 0

    @property
    def is_let_in(self) -> bool:
        return self._ticket is not None

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs | None]:
        """Of each prompt token, if asked for; known once the first piece is there."""
        return (self._stream and self._stream.prompt_logprobs) or []

    @property
    def num_cached_tokens(self) -> int:
        return self._stream.num_cached_tokens if self._stream else 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Of the tokens that came, of all continuations."""
        return sum(count.num_tokens for count in self._reasoning)

    @property
    def timings(self) -> RequestTimings:
        """On the monotonic clock; `arrival` is when the engine was asked."""
        assert self._stream is not None
        return self._stream.timings

    def let_in(self) -> None:
        """Take a place among those that are served; before or after `prepare`. Raises `OverloadedError`."""
        self._ticket = self._enter()
        if self.prompt:
            self._measure()

    def _measure(self) -> None:
        if self._ticket is not None:
            try:
                self._ticket.measured(len(self.prompt), self._max_new_tokens(), self.prompt)
            except BaseException:
                self._release(finished=False)
                self._ticket = None
                raise

    async def prepare(self, prepare: Callable[[], Awaitable[Prepared]]) -> None:
        """Know the prompt, and that it fits.

        Raises `RequestError`, `TemplateError`, `OverloadedError` and `DeadlineError`.
        """
        prepared = await self._until(self._order.deadline, prepare())
        self._params, self.prompt = prepared.params, prepared.token_ids
        self._continuations = [Continuation(self._tokenizer, self._params) for _ in range(self._params.n)]
        if prepared.count_reasoning is not None:
            self._reasoning = [prepared.count_reasoning() for _ in range(self._params.n)]
        info = self._engine.info
        limits = ModelLimits(info.vocab_size, frozenset(info.eos_ids))
        limits.check(self.prompt, self._params, None, info.max_model_len)
        self._measure()
        self.story.prepared, self.story.num_prompt_tokens = time.monotonic(), len(self.prompt)

    async def submit(self) -> None:
        """Returns when the engine works on it: with its first tokens, or after `REFUSAL_WAIT_S` without a refusal.

        Raises `RequestError` (of the engine's), `OverloadedError` and `DeadlineError`.
        """
        deadline, params = self._order.deadline, self._params
        ticket = self._require_ticket()
        await ticket.turn(deadline)
        self._metrics.turn()
        self.story.has_turn(ticket)
        job = Job(self._job_id, self.prompt, params, self._order.priority, self._order.cache_salt)
        self._stream = self._engine.submit(job)
        self._stream.when_finished = self._release_soon
        self.story.follow(self._stream)
        if deadline is not None:
            delay_s = max(0.0, deadline - time.monotonic())
            self._deadline_timer = asyncio.get_running_loop().call_later(delay_s, self._expire)
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_WAIT_S):
                self._first = self._pieces(await anext(self._stream))

    async def __aiter__(self) -> AsyncIterator[list[Piece]]:
        stream = self._stream
        assert stream is not None
        if self._first:
            yield self._first
        while self._num_open:
            pieces = self._pieces(await anext(stream))
            if pieces:
                yield pieces
        self._release(finished=True)  # others of its batch may wait for the room

    def _tell(self, reason: str, error: BaseException | None) -> None:
        """The end of the story."""
        if self._stream is not None:
            self.story.note(self._stream)
        self.story.num_output_tokens = self.num_output_tokens
        self.story.end(reason, error)

    def _require_ticket(self) -> Ticket:
        if self._ticket is None:
            raise EngineError("a generation was begun before it was let in")
        return self._ticket

    def _release(self, finished: bool) -> None:
        if self._ticket is not None:
            self._ticket.release(finished=finished)

    def _release_soon(self) -> None:
        """The engine is done with it. A reader who is slow to take the rest holds no place of the engine's."""
        if self._release_timer is None:
            loop = asyncio.get_running_loop()
            self._release_timer = loop.call_later(READ_WAIT_S, self._release, False)

    def _max_new_tokens(self) -> int:
        room = self._engine.info.max_model_len - len(self.prompt)
        wanted = self._order.params.max_tokens
        return max(0, room if wanted is None else min(wanted, room))

    async def _until(self, deadline: float | None, work: Awaitable[Prepared]) -> Prepared:
        if deadline is None:
            return await work
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())) as limit:
                return await work
        except TimeoutError:
            if limit.expired():
                raise self._late() from None
            raise

    def _expire(self) -> None:
        self._is_late = True
        if self._stream is not None:
            self._stream.abort()

    def _late(self) -> DeadlineError:
        return DeadlineError("the request took longer than its timeout allows; it was ended")

    def _pieces(self, events: list[TokenEvent]) -> list[Piece]:
        """The hot path of the front: once for every stream of every step."""
        num_before = self.num_output_tokens
        if len(events) == 1:
            piece = Piece(events[0].index, "", [], [])
            self._extend(piece, events[0])
            pieces = [piece]
        else:
            pieces = self._joined(events)
        self._count(self.num_output_tokens - num_before)
        return [piece for piece in pieces if piece.text or piece.logprobs or piece.finish_reason]

    def _joined(self, events: list[TokenEvent]) -> list[Piece]:
        """One piece for each continuation."""
        pieces: dict[int, Piece] = {}
        for event in events:
            piece = pieces.get(event.index)
            if piece is None:
                piece = pieces[event.index] = Piece(event.index, "", [], [])
            self._extend(piece, event)
        return list(pieces.values())

    def _extend(self, piece: Piece, event: TokenEvent) -> None:
        continuation = self._continuations[event.index]
        if continuation.finish_reason is not None:  # the engine did not know yet that a stop string ended it
            return
        if event.finish is not None:
            self._check_finish(event)
        text = continuation.push(event)
        piece.text += text
        if self._reasoning:
            self._count_reasoning(event, text)
        if event.token is not None:
            self.num_output_tokens += 1
            piece.token_ids.append(event.token)
            if event.logprobs is not None:
                piece.logprobs.append(event.logprobs)
        if continuation.finish_reason is not None:
            self._num_open -= 1
            piece.finish_reason, piece.stop_reason = continuation.finish_reason, continuation.stop_reason
            if continuation.found_stop_string and self._stream is not None:
                self._stream.stop(event.index, str(continuation.stop_reason))

    def _count_reasoning(self, event: TokenEvent, text: str) -> None:
        count = self._reasoning[event.index]
        if event.token is not None:
            count.push(text)
        if self._continuations[event.index].finish_reason is not None:
            count.finish()

    def _check_finish(self, event: TokenEvent) -> None:
        if event.finish == "abort":
            raise self._late() if self._is_late else UnavailableError("the engine was stopped", retry_after_s=1.0)
        if event.finish == "error":
            raise EngineError(f"request {self._job_id}: {event.stop_reason}")

    def _count(self, num_new: int) -> None:
        """Tell the metrics and the door what came."""
        if not self._has_begun:
            self._has_begun = True
            self._require_ticket().first_token(self.num_cached_tokens)
            if self._stream is not None:
                self.story.note(self._stream)
            self._metrics.first_token(len(self.prompt))
        if num_new:
            self._metrics.tokens(num_new)
            self._num_uncounted += num_new
        if self._num_uncounted >= COUNTED_TOKENS or (self._num_uncounted and not self._num_open):
            self._require_ticket().tokens(self._num_uncounted)
            self._num_uncounted = 0

    @staticmethod
    def _ending(kind: type[BaseException] | None) -> str:
        """Of a request that did not finish: its client left or its time was over, or something failed."""
        is_abort = kind is None or issubclass(kind, DeadlineError | asyncio.CancelledError | GeneratorExit)
        return "abort" if is_abort else "error"
