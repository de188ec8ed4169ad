"""Offline use, with the habits of vLLM's users: `LLM(model).generate(prompts, params)`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from functools import partial
from itertools import count
from typing import Any, Self

from vivace.core.config import EngineConfig
from vivace.core.errors import RequestError
from vivace.core.events import EmbeddingOutput, RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.engine.logits import LogitsReader, PromptLogits
from vivace.engine.output import OutputProcessor, TextDelta
from vivace.engine.pooling import POOLING_PARAMS, embedding_output
from vivace.engine.progress import TokenProgress
from vivace.engine.tokenizer import Tokenizer
from vivace.models.parameters import Progress
from vivace.ops.backend import Float32Array

SCORING_PARAMS = POOLING_PARAMS

Prompt = str | Items[int]
Message = Mapping[str, Any]


class LLM:
    """A model and its engine in this process.

    `model` is a directory, a GGUF file, a hub name, or None for the embedded model; other options are the fields of
    `EngineConfig`. Raises `ConfigError` for a wrong option and `ModelFileError` for a broken model.
    """

    def __init__(self, model: str | None = None, *, load_progress: Progress | None = None, **options: Any) -> None:
        """`load_progress(done, total)` counts parameters while they are packed, then a GPU's CUDA graphs."""
        config = EngineConfig.from_options({"model": model, **options})
        self._use(load_engine(config, load_progress))

    @classmethod
    def of(cls, loaded: LoadedEngine) -> Self:
        """Over an engine that is loaded already."""
        llm = cls.__new__(cls)
        llm._use(loaded)
        return llm

    def _use(self, loaded: LoadedEngine) -> None:
        self.loaded = loaded
        self.engine = loaded.engine
        self._outputs = OutputProcessor(loaded.engine, loaded.tokenizer)
        self._ids = count()

    @property
    def tokenizer(self) -> Tokenizer:
        if self.loaded.tokenizer is None:
            raise RequestError("this model has no tokenizer: pass prompts as token ids", param="prompt")
        return self.loaded.tokenizer

    @property
    def default_params(self) -> SamplingParams:
        """What the model's makers advise (`generation_config`), neutral where they do not; 16 tokens."""
        return self.loaded.generation.defaults.params()

    def generate(
        self,
        prompts: Prompt | Items[Prompt],
        params: SamplingParams | Items[SamplingParams] | None = None,
        *,
        use_progress: bool = False,
        priority: int = 0,
    ) -> list[RequestOutput]:
        """Complete every prompt (text or token ids); outputs come in the order of the prompts.

        One `SamplingParams` serves all prompts, or give one for each; without any: `default_params`.
        """
        listed = _as_list(prompts)
        each = _params_for(params or self.default_params, len(listed))
        ids: list[str] = []
        try:
            for prompt, one in zip(listed, each, strict=True):
                ids.append(self.submit(prompt, one, priority=priority))
            with TokenProgress(sum(one.n for one in each), enabled=use_progress) as progress:
                for delta in self._drain():
                    progress.update(delta)
        except BaseException:
            self._discard(ids)
            raise
        return [self._outputs.take(request_id) for request_id in ids]

    def embed(
        self, prompts: Prompt | Items[Prompt], *, pooling: Pooling = "mean", normalize: bool = True
    ) -> list[EmbeddingOutput]:
        """One vector for every prompt: the mean of its hidden states after the final norm, or the last one.

        `normalize` scales it to length 1. Raises `EngineError` where a hidden state is not finite.
        """
        ids: list[str] = []
        try:
            for prompt in _as_list(prompts):
                ids.append(self.submit(prompt, POOLING_PARAMS, pooling=pooling))
            for _ in self._drain():
                pass
            return [self._embedding(request_id, normalize) for request_id in ids]
        finally:
            self._discard(ids)

    def logits(self, prompts: Items[Items[int]], first: Items[int]) -> Iterator[PromptLogits]:
        """The raw logits that predict tokens `first[i] + 1` and later of each prompt (token ids), as they come.

        Of one prompt each row comes once, in order; those of several are mixed. What a chunk of rows holds is valid
        until the next one is asked for: a step's rows, never a whole prompt's, are in memory.
        """
        chunks: list[PromptLogits] = []
        reached = list(first)

        def keep(index: int, start: int, rows_SV: Float32Array) -> None:
            known = max(0, reached[index] - start)  # a prompt that was preempted is computed again
            if known < len(rows_SV):
                chunks.append(PromptLogits(index, start + known, rows_SV[known:]))
                reached[index] = start + len(rows_SV)

        ids: list[str] = []
        try:
            for index, (prompt, row) in enumerate(zip(prompts, first, strict=True)):
                ids.append(self.submit(prompt, SCORING_PARAMS, logits=LogitsReader(row, partial(keep, index))))
            for _ in self._steps():
                yield from chunks
                chunks.clear()
        finally:
            self._discard(ids)

    def chat(
        self,
        messages: Items[Message] | Items[Items[Message]],
        params: SamplingParams | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, through the model's chat template."""
        conversations: Any = [messages] if messages and isinstance(messages[0], Mapping) else messages
        return self.generate([self.chat_prompt(one) for one in conversations], params, **options)

    def chat_prompt(self, messages: Items[Message]) -> list[int]:
        """Token ids of a conversation with the assistant's turn opened. User text never yields control tokens."""
        from vivace.engine.chat_template import encode_chat  # 60 ms of jinja2 that plain prompts do not pay

        return encode_chat(self.tokenizer, messages)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        pooling: Pooling | None = None,
        logits: LogitsReader | None = None,
    ) -> str:
        """Queue one request and return its id; `stream` yields what it produces."""
        text = prompt if isinstance(prompt, str) else None
        token_ids = self.loaded.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if params.structured_outputs is not None:
            self.engine.constraints.compile(params.structured_outputs).result()  # a wrong one is refused here
        request_id = str(next(self._ids))
        self.engine.add(request_id, token_ids, params, priority=priority, pooling=pooling, logits=logits)
        self._outputs.register(request_id, text, token_ids, params)
        return request_id

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[TextDelta]:
        """Complete one prompt, piece by piece. One stream at a time: `AsyncEngine` serves many."""
        request_id = self.submit(prompt, params or self.default_params)
        try:
            for delta in self._drain():
                if delta.request_id == request_id:
                    yield delta
        finally:
            self._discard([request_id])

    def _steps(self) -> Iterator[list[TextDelta]]:
        """Step until nothing is queued or running: what each step produced, which may be nothing."""
        while self.engine.num_unfinished:
            if idle_s := self.engine.idle_s:
                time.sleep(idle_s)
            yield self._outputs.process(self.engine.step())
        yield self._outputs.process(self.engine.drain_events())

    def _drain(self) -> Iterator[TextDelta]:
        for deltas in self._steps():
            yield from deltas

    def _embedding(self, request_id: str, normalize: bool) -> EmbeddingOutput:
        embedding = self.engine.record(request_id).embedding
        return embedding_output(self._outputs.output(request_id), embedding, normalize=normalize)

    def _discard(self, ids: list[str]) -> None:
        """Abort what is unfinished and forget the requests."""
        for request_id in ids:
            self.engine.abort(request_id)
        self._outputs.process(self.engine.drain_events())
        for request_id in ids:
            self._outputs.take(request_id)


def _as_list(prompts: Prompt | Items[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (_is_prompt(prompts) and isinstance(next(iter(prompts), None), int)):
        return [prompts]  # type: ignore[list-item]
    if not _is_prompt(prompts) or not all(_is_prompt(one) for one in prompts):
        raise RequestError(
            "a prompt is a text or a list of token ids, and prompts are a list of these", param="prompt"
        )
    return list(prompts)  # type: ignore[arg-type]


def _is_prompt(value: object) -> bool:
    return isinstance(value, str | Iterable) and not isinstance(value, Mapping | bytes)


def _params_for(params: SamplingParams | Items[SamplingParams], num_prompts: int) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * num_prompts
    if len(params) != num_prompts:
        raise RequestError(f"{len(params)} sampling parameters for {num_prompts} prompts", param="params")
    return list(params)
