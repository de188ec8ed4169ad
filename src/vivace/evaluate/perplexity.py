"""Perplexity and bits per byte of a text, over overlapping windows.

Window k holds tokens [k * stride, k * stride + window); it scores those that no earlier window scored, so that every
token but the text's very first is scored exactly once, with at least `window - stride` tokens of context once the
text is that long. The tokens are those of one encoding of the whole text: no window starts with a BOS of its own.
"""

from __future__ import annotations

import math
import sys
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


@dataclass(frozen=True, slots=True)
class WindowedText:
    """A text's token ids, how they are cut, and the UTF-8 bytes of what is scored: all tokens but the first."""

    token_ids: list[int]
    num_bytes: int
    cuts: list[Window]
    window: int
    stride: int

    @property
    def num_tokens(self) -> int:
        """Scored ones."""
        return len(self.token_ids) - 1

    def tokens(self, cut: Window) -> list[int]:
        return self.token_ids[cut.start : cut.stop]


def cut_text(llm: LLM, text: str, window: int | None, stride: int | None, limit: int | None = None) -> WindowedText:
    """Tokenise and cut. `window` defaults to the context (2,048 tokens at most), `stride` to half of it.

    `limit` lowers the context: another model must take the windows too. Raises `ConfigError` for windows that cannot
    be taken and for a text of fewer than two tokens.
    """
    limit = min(llm.engine.config.max_model_len, limit or sys.maxsize)
    window = min(limit, DEFAULT_WINDOW) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if window > limit:
        raise ConfigError(f"a window of {window} tokens exceeds the context of {limit}: lower --window")
    token_ids, num_bytes = _encode(llm, text)
    cuts = list(windows(len(token_ids), window, stride))
    if not cuts:
        raise ConfigError("the text has fewer than two tokens: nothing can be scored")
    return WindowedText(token_ids, num_bytes, cuts, window, stride)


def perplexity(
    llm: LLM, text: str, *, window: int | None = None, stride: int | None = None, progress: Progress | None = None
) -> PerplexityResult:
    """Score `text`, cut as `cut_text` says, which also says what is refused."""
    windowed = cut_text(llm, text, window, stride)
    sums = []
    for sums_of_group in negative_logprobs(llm, windowed, windowed.cuts):
        sums += sums_of_group
        if progress is not None:
            progress(len(sums), len(windowed.cuts))
    return perplexity_of(windowed, sums)


def perplexity_of(windowed: WindowedText, nats_of_windows: list[float]) -> PerplexityResult:
    """The figures of a text from the negative log-likelihood of each of its windows."""
    nats, num_tokens = math.fsum(nats_of_windows), windowed.num_tokens
    return PerplexityResult(
        perplexity=math.exp(nats / num_tokens),
        bits_per_byte=nats / math.log(2) / max(windowed.num_bytes, 1),
        nats_per_token=nats / num_tokens,
        num_tokens=num_tokens,
        num_bytes=windowed.num_bytes,
        num_windows=len(windowed.cuts),
        window=windowed.window,
        stride=windowed.stride,
    )


def negative_logprobs(llm: LLM, windowed: WindowedText, cuts: list[Window]) -> Iterator[list[float]]:
    """Nats of each window, group by group of windows that run together."""
    params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0)
    for first in range(0, len(cuts), WINDOWS_AT_ONCE):
        group = cuts[first : first + WINDOWS_AT_ONCE]
        outputs = llm.generate([windowed.tokens(cut) for cut in group], params)
        sums = []
        for cut, output in zip(group, outputs, strict=True):
            assert output.prompt_logprobs is not None
            entries = output.prompt_logprobs[cut.first_scored - cut.start :]
            sums.append(-math.fsum(entry.logprob for entry in entries if entry is not None))
        yield sums


def _encode(llm: LLM, text: str) -> tuple[list[int], int]:
    """The text's ids behind a BOS where the model has one, and the UTF-8 bytes of what is scored."""
    tokenizer = llm.tokenizer
    token_ids = tokenizer.encode(text, add_special=False)
    num_bytes = len(text.encode())
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        return [tokenizer.bos_id, *token_ids], num_bytes
    return token_ids, num_bytes - len(tokenizer.decode(token_ids[:1]).encode())
