"""Pieces of text to the choices of /v1/chat/completions: content, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from msgspec import UNSET

from vivace.serve.batch import Batch
from vivace.serve.generation import Piece
from vivace.serve.service import Service
from vivace.serve.tools.deltas import (
    ContentDelta,
    OutputDelta,
    OutputParser,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
    gather,
)
from vivace.serve.tools.plan import ChatPlan
from vivace.serve.wire.chat import (
    AnswerFunction,
    AnswerMessage,
    AnswerToolCall,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionDelta,
    ToolCallDelta,
)


class ChatAnswer:
    """One conversation's answer, whole or in chunks."""

    def __init__(self, service: Service, body: ChatRequest, batch: Batch, plan: ChatPlan, name: str) -> None:
        self._body = body
        self._batch = batch
        self._name = name
        self._model = service.model_name
        self._created = service.now()
        self._shapes = service.logprobs
        self._parsers = [plan.parser() for _ in range(batch.n)]

    def opening(self) -> list[ChatChunk]:
        """The first chunk of every choice says who speaks."""
        return [
            self._chunk(ChunkChoice(index, Delta(role="assistant", content=""))) for index in range(self._batch.n)
        ]

    def chunks(self, pieces: list[Piece]) -> list[ChatChunk]:
        """Log probabilities go with a piece's first delta, or alone where the parser holds its text back."""
        chunks: list[ChatChunk] = []
        for piece in pieces:
            choices = [ChunkChoice(piece.index, delta) for delta in _wire_deltas(self._read(piece))]
            logprobs = self._logprobs(piece)
            if logprobs is not None:
                choices = choices or [ChunkChoice(piece.index, Delta())]
                choices[0].logprobs = logprobs
            if piece.finish_reason is not None:
                choices = choices or [ChunkChoice(piece.index, Delta())]
                choices[-1].finish_reason = self._finish(piece)
                choices[-1].stop_reason = piece.stop_reason
            chunks += map(self._chunk, choices)
        return chunks

    def last_chunk(self) -> ChatChunk | None:
        """Usage and timings, where they were asked for."""
        options = self._body.stream_options
        with_usage = options is not None and bool(options.include_usage)
        if not with_usage and not self._body.timings:
            return None
        last = ChatChunk(self._name, self._created, self._model, [])
        if with_usage:
            last.usage = self._batch.usage
        if self._body.timings:
            last.timings = self._batch.timings
        return last

    def whole(self, pieces: list[Piece]) -> ChatCompletion:
        choices = [self._choice(piece) for piece in pieces]
        completion = ChatCompletion(self._name, self._created, self._model, choices, self._batch.usage)
        if self._body.timings:
            completion.timings = self._batch.timings
        return completion

    def _choice(self, piece: Piece) -> ChatChoice:
        message = _message(self._read(piece))
        choice = ChatChoice(piece.index, message, self._logprobs(piece), self._finish(piece), piece.stop_reason)
        if self._body.prompt_logprobs is not None:
            choice.prompt_logprobs = self._shapes.prompt(self._batch.generations[0].prompt_logprobs)
        return choice

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        options = self._body.stream_options
        chunk = ChatChunk(self._name, self._created, self._model, [choice])
        if options is not None and options.continuous_usage_stats:
            chunk.usage = self._batch.usage
        elif options is not None and options.include_usage:
            chunk.usage = None
        return chunk

    def _read(self, piece: Piece) -> list[OutputDelta]:
        parser = self._parsers[piece.index]
        deltas = parser.push(piece.text)
        return deltas if piece.finish_reason is None else deltas + parser.finish()

    def _finish(self, piece: Piece) -> FinishReason:
        return finish_reason(piece, self._parsers[piece.index])

    def _logprobs(self, piece: Piece) -> ChoiceLogprobs | None:
        if not self._body.logprobs or not piece.logprobs:
            return None
        return self._shapes.chat(piece.logprobs, self._body.top_logprobs or 0)


def finish_reason(piece: Piece, parser: OutputParser) -> FinishReason:
    """OpenAI's: a stop after calls is "tool_calls". Other reasons than "stop" and "length" raised an error before."""
    if piece.finish_reason == "stop" and parser.num_tool_calls:
        return "tool_calls"
    return cast(FinishReason, piece.finish_reason)


def _message(deltas: Iterable[OutputDelta]) -> AnswerMessage:
    parsed = gather(deltas)
    calls = [AnswerToolCall(call.id, AnswerFunction(call.name, call.arguments)) for call in parsed.tool_calls]
    return AnswerMessage(
        parsed.content or (None if calls else ""),
        reasoning_content=parsed.reasoning or UNSET,
        tool_calls=calls or UNSET,
    )


def _wire_deltas(deltas: Iterable[OutputDelta]) -> list[Delta]:
    """Neighbours of one kind are joined: a slow reader gets fewer chunks."""
    wire: list[Delta] = []
    for delta in deltas:
        match delta:
            case ContentDelta(text):
                if wire and isinstance(wire[-1].content, str):
                    wire[-1].content += text
                else:
                    wire.append(Delta(content=text))
            case ReasoningDelta(text):
                if wire and isinstance(wire[-1].reasoning_content, str):
                    wire[-1].reasoning_content += text
                else:
                    wire.append(Delta(reasoning_content=text))
            case ToolCallStart(index, call_id, name):
                function = FunctionDelta(name, "")
                wire.append(Delta(tool_calls=[ToolCallDelta(index, function, call_id, "function")]))
            case ToolCallArguments(index, text):
                wire.append(Delta(tool_calls=[ToolCallDelta(index, FunctionDelta(arguments=text))]))
    return wire
