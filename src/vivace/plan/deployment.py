"""What is planned for: how a model is served, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vivace.bench.slo import SLO
from vivace.bench.traffic.request import Traffic
from vivace.core.config import BatchingPolicy, KVCacheDtype
from vivace.core.errors import ConfigError
from vivace.core.step_size import CPU_TOKENS_A_STEP
from vivace.models.spec import ModelSpec

DEFAULT_ACCEPTANCE = 0.6  # of a guess by a draft of the same family: an assumption, to be replaced by a measurement


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """Guess `num_tokens` tokens a step; each stands with the chance `acceptance` if those before it did. `draft` is
    the model that guesses, None where guesses cost nothing to make (n-grams)."""

    num_tokens: int
    acceptance: float = DEFAULT_ACCEPTANCE
    draft: ModelSpec | None = None
    draft_quantization: str = "int8"

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ConfigError(f"speculation guesses at least 1 token, not {self.num_tokens}")
        if not 0 <= self.acceptance <= 1:
            raise ConfigError(f"acceptance is a share from 0 to 1, not {self.acceptance}")

    @property
    def tokens_a_step(self) -> float:
        """Expected: the guesses that stand and the token that the step itself draws (Leviathan et al., 2023)."""
        if self.acceptance == 1:
            return self.num_tokens + 1.0
        return (1 - self.acceptance ** (self.num_tokens + 1)) / (1 - self.acceptance)


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a model is served: the options of `EngineConfig` that speed and memory depend on.

    `quantization` is a name of `plan.weights.QUANTIZATIONS`. `max_model_len` None: as long as the traffic needs.
    `num_threads` None: all cores. A static batch of one is the naive server.
    """

    quantization: str = "bf16"
    kv_cache_dtype: KVCacheDtype = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = CPU_TOKENS_A_STEP
    block_size: int = 16
    batching: BatchingPolicy = "continuous"
    static_batch_size: int = 8
    enable_prefix_caching: bool = True
    kv_cache_memory_bytes: int | None = None
    num_kv_blocks: int | None = None
    speculation: SpeculationPlan | None = None
    num_threads: int | None = None

    @property
    def most_running(self) -> int:
        """Sequences that one step may hold."""
        if self.batching == "static":
            return min(self.static_batch_size, self.max_num_seqs)
        return min(self.max_num_seqs, self.max_num_batched_tokens)

    @property
    def rows_a_sequence(self) -> int:
        """That a decode step computes for each sequence."""
        return 1 + (self.speculation.num_tokens if self.speculation else 0)

    @property
    def tokens_a_step(self) -> float:
        """That a sequence gains in a decode step."""
        return self.speculation.tokens_a_step if self.speculation else 1.0


@dataclass(frozen=True, slots=True)
class TrafficShape:
    """What is asked: mean tokens in and out, and how many at once.

    `cached_prefix_len` tokens of a prompt were computed for an earlier request (a shared system prompt, the turns
    before). `rate_per_s` requests arrive by themselves (an open loop); without it `concurrency` users each send the
    next request when the last one is answered. `slo`: what `users_at_slo` must keep.
    """

    prompt_len: float = 512
    output_len: float = 128
    cached_prefix_len: float = 0
    concurrency: int = 1
    rate_per_s: float | None = None
    slo: SLO | None = None

    def __post_init__(self) -> None:
        for name, least in (("prompt_len", 1), ("output_len", 1), ("cached_prefix_len", 0), ("concurrency", 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(f"{name} of the traffic must be {least} or more, not {value!r}")
        if self.cached_prefix_len >= self.prompt_len and self.cached_prefix_len:
            raise ConfigError("cached_prefix_len must be less than prompt_len: at least one token is computed")
        if self.rate_per_s is not None and not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise ConfigError(f"rate_per_s must be above 0 requests a second, not {self.rate_per_s!r}")

    @property
    def request_len(self) -> float:
        return self.prompt_len + self.output_len

    @classmethod
    def of(cls, traffic: Traffic, *, cached_prefix_len: float = 0, slo: SLO | None = None) -> TrafficShape:
        """The means of a traffic; its rate from the arrivals where it is open. Raises ConfigError if it is empty."""
        requests = traffic.requests
        if not requests:
            raise ConfigError("the traffic has no requests")
        arrivals = [one.arrival_s for one in requests if one.arrival_s is not None]
        duration = max(arrivals) - min(arrivals) if arrivals else 0.0
        return cls(
            prompt_len=_mean(one.prompt_len for one in requests),
            output_len=_mean(one.output_len for one in requests),
            cached_prefix_len=cached_prefix_len,
            concurrency=traffic.concurrency or 1,
            rate_per_s=len(arrivals) / duration if duration > 0 and traffic.concurrency is None else None,
            slo=slo,
        )


Binding = Literal["bandwidth", "arithmetic", "overhead", "memory", "queueing"]


def _mean(values: Iterable[int]) -> float:
    listed = list(values)
    return max(1.0, sum(listed) / len(listed))
