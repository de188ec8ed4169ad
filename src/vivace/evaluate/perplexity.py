"""Perplexity and bits per byte of a text, over overlapping windows.

Window k holds tokens [k * stride, k * stride + window); it scores those that no earlier window scored, so that every
token but the text's very first is scored exactly once, with at least `window - stride` tokens of context once the
text is that long. The tokens are those of one encoding of the whole text: no window starts with a BOS of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

DEFAULT_WINDOW = 2048  # tokens, where the model's context is longer: the usual setting of published figures
WINDOWS_AT_ONCE = 16  # submitted together: enough to fill every step, few enough to keep their scores small

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, stop) of the text, of which [first_scored, stop) count."""

    start: int
    stop: int
    first_scored: int


@dataclass(frozen=True, slots=True)
class PerplexityResult:
    """`perplexity` = exp(mean negative log-likelihood of a token); `bits_per_byte` = total bits / UTF-8 bytes of
    the scored text: the figure to compare models of different vocabularies by."""

    perplexity: float
    bits_per_byte: float
    nats_per_token: float
    num_tokens: int
    num_bytes: int
    num_windows: int
    window: int
    stride: int


def windows(num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Cut a text of `num_tokens`. The stride must be below the window: a window's first token has no prediction."""
    if not 1 <= stride < window:
        raise ConfigError(f"the stride must be from 1 to window - 1 = {window - 1}, not {stride}")
    scored = 1
    for start in range(0, num_tokens, stride):
        stop = min(start + window, num_tokens)
        if stop > scored:
            yield Window(start, stop, scored)
            scored = stop


def perplexity(
    llm: LLM, text: str, *, window: int | None = None, stride: int | None = None, progress: Progress | None = None
) -> PerplexityResult:
    """Score `text`. `window` defaults to the context (2,048 tokens at most), `stride` to half of it.

    Raises `ConfigError` for windows that the model cannot take and for a text of fewer than two tokens.
    """
    limit = llm.engine.config.max_model_len
    window = min(limit, DEFAULT_WINDOW) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if window > limit:
        raise ConfigError(f"a window of {window} tokens exceeds the context of {limit}: lower --window")
    token_ids, num_bytes = _encode(llm, text)
    cuts = list(windows(len(token_ids), window, stride))
    if not cuts:
        raise ConfigError("the text has fewer than two tokens: nothing can be scored")
    nats = math.fsum(_negative_logprobs(llm, token_ids, cuts, progress))
    num_tokens = len(token_ids) - 1
    return PerplexityResult(
        perplexity=math.exp(nats / num_tokens),
        bits_per_byte=nats / math.log(2) / num_bytes,
        nats_per_token=nats / num_tokens,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_windows=len(cuts),
        window=window,
        stride=stride,
    )


def _encode(llm: LLM, text: str) -> tuple[list[int], int]:
    """The text's ids behind a BOS where the model has one, and the UTF-8 bytes of what is scored."""
    tokenizer = llm.tokenizer
    token_ids = tokenizer.encode(text, add_special=False)
    num_bytes = len(text.encode())
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        return [tokenizer.bos_id, *token_ids], num_bytes
    return token_ids, num_bytes - len(tokenizer.decode(token_ids[:1]).encode())


def _negative_logprobs(
    llm: LLM, token_ids: list[int], cuts: list[Window], progress: Progress | None
) -> Iterator[float]:
    params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0)
    for first in range(0, len(cuts), WINDOWS_AT_ONCE):
        group = cuts[first : first + WINDOWS_AT_ONCE]
        outputs = llm.generate([token_ids[cut.start : cut.stop] for cut in group], params)
        for cut, output in zip(group, outputs, strict=True):
            assert output.prompt_logprobs is not None
            for entry in output.prompt_logprobs[cut.first_scored - cut.start :]:
                assert entry is not None
                yield -entry.logprob
        if progress is not None:
            progress(first + len(group), len(cuts))
