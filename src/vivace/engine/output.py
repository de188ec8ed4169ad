"""From token events to text: detokenises incrementally, finds stop strings, keeps each request's output."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.events import CompletionOutput, RequestOutput, TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.engine.continuation import Continuation
from vivace.engine.engine import Engine
from vivace.engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one step added to one continuation. `finished` is true with its last piece."""

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    finished: bool


class OutputProcessor:
    """Turns an engine's events into `RequestOutput`s, and stops continuations whose text hits a stop string."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._outputs: dict[str, RequestOutput] = {}
        self._continuations: dict[str, list[Continuation]] = {}

    def register(self, request_id: str, prompt: str | None, token_ids: list[int], params: SamplingParams) -> None:
        """Call right after `engine.add`."""
        record = self._engine.record(request_id)
        outputs = [CompletionOutput(index) for index in range(params.n)]
        for output in outputs if params.logprobs is not None else ():
            output.logprobs, output.cumulative_logprob = [], 0.0
        self._outputs[request_id] = RequestOutput(request_id, prompt, token_ids, outputs, record.timings)
        self._continuations[request_id] = [Continuation(self._tokenizer, params) for _ in range(params.n)]

    def output(self, request_id: str) -> RequestOutput:
        return self._outputs[request_id]

    def process(self, events: list[TokenEvent]) -> list[TextDelta]:
        """Apply events in order. A request whose last continuation ended is final: see `take`."""
        return [delta for event in events if (delta := self._apply(event)) is not None]

    def take(self, request_id: str) -> RequestOutput:
        """Remove and return a finished request's output."""
        output = self._outputs.pop(request_id)
        del self._continuations[request_id]
        self._engine.forget(request_id)
        return output

    def _apply(self, event: TokenEvent) -> TextDelta | None:
        request = self._outputs.get(event.request_id)
        if request is None:
            return None
        output = request.outputs[event.index]
        if output.finish_reason is not None:  # the engine's own "stop" answer to a stop string found here
            return None
        if event.token is not None:
            self._add_token(output, event)
        continuation = self._continuations[event.request_id][event.index]
        text = continuation.push(event)
        output.text += text
        output.finish_reason, output.stop_reason = continuation.finish_reason, continuation.stop_reason
        if continuation.found_stop_string:
            self._engine.stop(event.request_id, event.index, str(continuation.stop_reason))
        if output.finish_reason is not None:
            self._close(request)
        ids = () if event.token is None else (event.token,)
        return TextDelta(event.request_id, event.index, text, ids, output.finish_reason is not None)

    @staticmethod
    def _add_token(output: CompletionOutput, event: TokenEvent) -> None:
        assert event.token is not None
        output.token_ids.append(event.token)
        if event.logprobs is not None and output.logprobs is not None:
            output.logprobs.append(event.logprobs)
            output.cumulative_logprob = (output.cumulative_logprob or 0.0) + event.logprobs.logprob

    def _close(self, request: RequestOutput) -> None:
        if all(output.finish_reason is not None for output in request.outputs):
            record = self._engine.record(request.request_id)
            request.finished = True
            request.num_cached_tokens = record.num_cached_tokens
            request.prompt_logprobs = record.prompt_logprobs
