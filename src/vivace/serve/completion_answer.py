"""Pieces of text to the choices of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vivace.core.events import FinishReason
from vivace.serve.batch import Batch
from vivace.serve.generation import Piece
from vivace.serve.logprob_shapes import LegacyRow
from vivace.serve.service import Service
from vivace.serve.wire.completions import Completion, CompletionChoice, CompletionRequest, LegacyLogprobs


def openai_finish(reason: FinishReason | None) -> Literal["stop", "length"] | None:
    return reason if reason in ("stop", "length") else None  # the others raise an error before they get here


class CompletionAnswer:
    """What is the same for the whole answer and for each chunk of a stream."""

    def __init__(
        self, service: Service, body: CompletionRequest, batch: Batch, prompts: Sequence[str | list[int]], name: str
    ) -> None:
        self._tokenizer = service.tokenizer
        self._body = body
        self._batch = batch
        self._prompts = prompts
        self._name = name
        self._model = service.model_name
        self._created = service.now()
        self._shapes = service.logprobs
        self._rows: dict[int, LegacyRow] = {}  # by choice, once it has begun

    def chunk(self, pieces: list[Piece]) -> list[Completion]:
        """One chunk for each piece."""
        options = self._body.stream_options
        chunks = []
        for piece in pieces:
            chunk = self._completion([self._choice(piece)])
            if options is not None and options.continuous_usage_stats:
                chunk.usage = self._batch.usage
            elif options is not None and options.include_usage:
                chunk.usage = None
            chunks.append(chunk)
        return chunks

    def last_chunk(self) -> Completion | None:
        """Usage and timings, where they were asked for."""
        options = self._body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        if not with_usage and not self._body.timings:
            return None
        last = self._completion([])
        if with_usage:
            last.usage = self._batch.usage
        if self._body.timings:
            last.timings = self._batch.timings
        return last

    def whole(self, pieces: list[Piece]) -> Completion:
        completion = self._completion([self._choice(piece) for piece in pieces])
        completion.usage = self._batch.usage
        if self._body.timings:
            completion.timings = self._batch.timings
        return completion

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(self._name, self._created, self._model, choices)

    def _choice(self, piece: Piece) -> CompletionChoice:
        is_first = piece.index not in self._rows
        choice = CompletionChoice(piece.index, piece.text, None, openai_finish(piece.finish_reason))
        if piece.finish_reason is not None:
            choice.stop_reason = piece.stop_reason
        prompt_row = self._begin(choice) if is_first else None
        if self._body.logprobs is not None and (piece.logprobs or prompt_row is not None):
            row = self._rows[piece.index].extend(piece.token_ids, piece.logprobs)
            choice.logprobs = row if prompt_row is None else _joined(prompt_row, row)
        return choice

    def _begin(self, choice: CompletionChoice) -> LegacyLogprobs | None:
        """The choice's first piece: the echoed prompt goes before it. Returns the prompt's log probabilities."""
        number = choice.index // self._batch.n
        row = self._rows[choice.index] = LegacyRow(self._shapes, self._tokenizer, self._body.logprobs or 0)
        generation = self._batch.generations[number]
        if self._body.prompt_logprobs is not None:
            choice.prompt_logprobs = self._shapes.prompt(generation.prompt_logprobs)
        if not self._body.echo:
            return None
        choice.text = self._echo(self._prompts[number]) + choice.text
        if self._body.logprobs is None:
            return None
        return row.extend(generation.prompt, generation.prompt_logprobs)

    def _echo(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return self._tokenizer.decode(prompt) if self._tokenizer else ""


def _joined(first: LegacyLogprobs, second: LegacyLogprobs) -> LegacyLogprobs:
    return LegacyLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )
