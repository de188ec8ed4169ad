"""What leaves the engine: events by token, and outputs by request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position: the token's own, its rank (1 = most likely), the k best."""

    token: int
    logprob: float
    rank: int
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(slots=True)
class TokenEvent:
    """Sequence `index` of a request got one token; with `finish`, it was the last (or no token: token is None).

    Not frozen: a frozen dataclass takes 1 µs longer to make, 0.25 ms a step at 256 sequences.
    """

    request_id: str
    index: int
    token: int | None
    logprobs: TokenLogprobs | None
    finish: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestTimings:
    """Seconds on the monotonic clock; None until it happened."""

    arrival: float
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's `n` continuations."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestOutput:
    """A request's state so far. `prompt_logprobs[0]` is None: nothing predicts the first token."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    timings: RequestTimings
    finished: bool = False
    num_cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of one prompt, of float32 values."""

    prompt: str | None
    prompt_token_ids: list[int]
    embedding: list[float]
    num_cached_tokens: int
