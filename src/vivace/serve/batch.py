"""The prompts of one HTTP request, generated beside each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from vivace.core.errors import OverloadedError
from vivace.serve.generation import Generation, Piece, Prepared
from vivace.serve.wire.usage import CompletionTokensDetails, PromptTokensDetails, Timings, Usage


class Batch:
    """Several generations as one: pieces count their `index` over prompts and continuations, as OpenAI's choices do.

    Use as a context manager: leaving it ends what still runs.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        n: int,
        log: dict[str, Any] | None = None,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        """What it cost is written to `log` at its end; then `on_end` gets the error that ended it, if one did."""
        self.generations = generations
        self.n = n
        self._log = {} if log is None else log
        self._on_end = on_end
        self._exits = ExitStack()

    def __enter__(self) -> Batch:
        for generation in self.generations:
            self._exits.enter_context(generation)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)
        usage = self.usage
        self._log["num_prompt_tokens"] = usage.prompt_tokens
        self._log["num_cached_tokens"] = usage.prompt_tokens_details.cached_tokens
        self._log["num_generated_tokens"] = usage.completion_tokens
        if self._on_end is not None:
            self._on_end(error)

    async def start(self, preparations: Sequence[Callable[[], Awaitable[Prepared]]]) -> None:
        """Prepare every prompt and bring an only one to the engine; several go there as they are iterated over.

        There may be more of them than the engine has rows: none may wait here for the turn of another. The first
        one's error ends them all.
        """
        if len(preparations) == 1:
            await self.generations[0].prepare(preparations[0])
            await self.generations[0].submit()
            return
        try:
            async with asyncio.TaskGroup() as group:
                for generation, prepare in zip(self.generations, preparations, strict=True):
                    group.create_task(generation.prepare(prepare))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def __aiter__(self) -> AsyncIterator[list[Piece]]:
        return aiter(self.generations[0]) if len(self.generations) == 1 else self._interleaved()

    async def _interleaved(self) -> AsyncIterator[list[Piece]]:
        """Those that were let in run at once; each that ends makes room for the next."""
        waiting = deque(number for number, one in enumerate(self.generations) if not one.is_let_in)
        readers = {number: _submitted(one) for number, one in enumerate(self.generations) if one.is_let_in}
        pending = {asyncio.create_task(_next(reader)): number for number, reader in readers.items()}
        try:
            while pending:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    number = pending.pop(task)
                    more = task.result()
                    if more is not None:
                        pending[asyncio.create_task(_next(readers[number]))] = number
                        yield self._shifted(more, number)
                    else:
                        for following in self._let_in(waiting, is_last=not pending):
                            readers[following] = _submitted(self.generations[following])
                            pending[asyncio.create_task(_next(readers[following]))] = following
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _let_in(self, waiting: deque[int], is_last: bool) -> list[int]:
        """Numbers of those that find room now. Raises `OverloadedError` where none does and none else runs."""
        entered: list[int] = []
        try:
            while waiting:
                self.generations[waiting[0]].let_in()
                entered.append(waiting.popleft())
        except OverloadedError:
            if is_last and not entered:
                raise
        return entered

    async def collect(self) -> list[Piece]:
        """Every continuation, whole, as one piece."""
        wholes = [Piece(index, "", [], []) for index in range(len(self.generations) * self.n)]
        texts: list[list[str]] = [[] for _ in wholes]
        async for pieces in self:
            for piece in pieces:
                whole = wholes[piece.index]
                texts[piece.index].append(piece.text)
                whole.token_ids += piece.token_ids
                whole.logprobs += piece.logprobs
                whole.finish_reason, whole.stop_reason = piece.finish_reason, piece.stop_reason
        for whole, parts in zip(wholes, texts, strict=True):
            whole.text = "".join(parts)
        return wholes

    @property
    def usage(self) -> Usage:
        """So far."""
        prompt = sum(len(generation.prompt) for generation in self.generations)
        output = sum(generation.num_output_tokens for generation in self.generations)
        cached = sum(generation.num_cached_tokens for generation in self.generations)
        reasoning = sum(generation.num_reasoning_tokens for generation in self.generations)
        return Usage(prompt, output, prompt + output, PromptTokensDetails(cached), CompletionTokensDetails(reasoning))

    @property
    def timings(self) -> Timings:
        """Of the whole request: from the first prompt's arrival to the last one's end."""
        all_timings = [generation.timings for generation in self.generations]
        arrival = min(one.arrival for one in all_timings)
        admitted = min((one.admitted for one in all_timings if one.admitted is not None), default=arrival)
        first_token = min((one.first_token for one in all_timings if one.first_token is not None), default=admitted)
        finished = max((one.finished for one in all_timings if one.finished is not None), default=first_token)
        usage = self.usage
        cached = usage.prompt_tokens_details.cached_tokens
        prompt_s, predicted_s = first_token - admitted, finished - first_token
        computed, predicted = usage.prompt_tokens - cached, usage.completion_tokens
        return Timings(
            queue_ms=1e3 * (admitted - min(generation.arrived for generation in self.generations)),
            cache_n=cached,
            prompt_n=computed,
            prompt_ms=1e3 * prompt_s,
            prompt_per_second=computed / prompt_s if prompt_s > 0 else None,
            predicted_n=predicted,
            predicted_ms=1e3 * predicted_s,
            predicted_per_token_ms=1e3 * predicted_s / predicted if predicted else None,
            predicted_per_second=predicted / predicted_s if predicted_s > 0 else None,
        )

    def _shifted(self, pieces: list[Piece], number: int) -> list[Piece]:
        for piece in pieces:
            piece.index += number * self.n
        return pieces


async def _submitted(generation: Generation) -> AsyncIterator[list[Piece]]:
    await generation.submit()
    async for pieces in generation:
        yield pieces


async def _next(reader: AsyncIterator[list[Piece]]) -> list[Piece] | None:
    return await anext(reader, None)
