"""What a request asks of the sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs

MAX_N = 16
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1_024
MIN_TEMPERATURE = 1e-4  # below it, logits / temperature overflows float32 for ordinary logits: treated as greedy


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one request, with vLLM's names and meanings. Invalid values raise `RequestError`.

    `max_tokens=None` means: up to the context window. `logprobs=k` returns the chosen token's log probability
    and the k most likely ones, of the raw distribution (before penalties, temperature and filters).
    `structured_outputs` restricts the text to what a schema, expression or grammar allows.
    `seed=None` lets the engine pick one; a given seed makes the text independent of everything else that runs.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0 and -1: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise RequestError(
                "structured_outputs is a StructuredOutputs, such as StructuredOutputs.json_schema(schema) or "
                'StructuredOutputs("regex", "[0-9]+")',
                param="structured_outputs",
            )
        self._check_counts()
        self._check_distribution()
        self._check_stops()

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_counts(self) -> None:
        _require_int("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _require_int("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _require_int("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})",
                param="min_tokens",
            )
        for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if value is not None:
                _require_int(name, value, 0, MAX_LOGPROBS)
        if self.seed is not None:
            _require_int("seed", self.seed, -(2**63), 2**64 - 1)

    def _check_distribution(self) -> None:
        _require_float("temperature", self.temperature, 0.0, 100.0)
        _require_int("top_k", self.top_k, 0, 2**31 - 1)
        _require_float("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise RequestError("top_p must be above 0", param="top_p")
        _require_float("min_p", self.min_p, 0.0, 1.0)
        _require_float("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _require_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _require_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise RequestError(f"logit_bias has more than {MAX_LOGIT_BIAS} entries", param="logit_bias")
        for token, bias in self.logit_bias.items():
            _require_int("logit_bias", token, 0, 2**31 - 1)
            _require_float("logit_bias", bias, -100.0, 100.0)

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(f"stop has more than {MAX_STOP_STRINGS} strings", param="stop")
        for text in self.stop:
            if not isinstance(text, str) or not text or len(text) > MAX_STOP_CHARS:
                raise RequestError(f"each stop string needs 1 to {MAX_STOP_CHARS} characters", param="stop")
        for token in self.stop_token_ids:
            _require_int("stop_token_ids", token, 0, 2**31 - 1)


def _require_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be an integer from {low} to {high}, got {value!r}", param=name)


def _require_float(name: str, value: object, low: float, high: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise RequestError(f"{name} must be a number from {low} to {high}, got {value!r}", param=name)
