"""What is known of a candidate: how fast, how good, how true. Plain values that go to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the workload by all its users at once, and of its first requests by a single one.

    Rates are output tokens and requests a second; latencies milliseconds, medians unless the name says more, of one
    user alone where it begins with `single`: its latency is a mean. A TPOT of 0: no answer had two tokens.
    `goodput_per_s` counts requests that keep the SLO, None without one: of the closed loop, or, where rates were
    swept, at `good_rate_per_s`, the most that may come at random so that `good_share` of them keep it (0: not one
    rate did). Where the user says what is offered, it is measured at `offered_per_s` instead, and
    `offered_latency_ms` is the mean time of an answer then. Memory is that of weights and KV pool, a draft's
    included. `is_extended`: the one user's answer was not waited for, its first tokens go on at their pace.
    `seconds` is what the measurement took altogether.
    """

    tokens_per_s: float
    requests_per_s: float
    ttft_ms: float
    ttft_p95_ms: float
    tpot_ms: float
    itl_p95_ms: float
    single_ttft_ms: float
    single_tpot_ms: float
    single_latency_ms: float
    weight_bytes: int
    kv_pool_bytes: int
    kv_bytes_per_token: int
    goodput_per_s: float | None = None
    good_share: float | None = None
    good_rate_per_s: float | None = None
    offered_per_s: float | None = None
    offered_latency_ms: float | None = None
    offered_ttft_p95_ms: float | None = None
    prefix_hit_rate: float = 0.0
    acceptance: float | None = None  # share of guessed tokens that stood
    num_preemptions: int = 0
    num_failed: int = 0
    is_extended: bool = False
    seconds: float = 0.0

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.kv_pool_bytes

    def scaled(self, factor: float) -> Measurement:
        """As it would be on a machine `factor` times as fast. What is offered stays, and who keeps the SLO of it."""
        at_limit = ("goodput_per_s", "good_rate_per_s") if self.offered_per_s is None else ()
        rates = ("tokens_per_s", "requests_per_s", *at_limit)
        crowd = ("ttft_ms", "ttft_p95_ms", "tpot_ms", "itl_p95_ms", "offered_latency_ms", "offered_ttft_p95_ms")
        times = (*crowd, "single_ttft_ms", "single_tpot_ms", "single_latency_ms")
        changed: dict[str, Any] = {
            name: value * factor for name in rates if (value := getattr(self, name)) is not None
        }
        changed |= {name: value / factor for name in times if (value := getattr(self, name)) is not None}
        return replace(self, **changed)

    @property
    def is_at_rates(self) -> bool:
        """It was asked at a rate or several, beside the closed loop."""
        return self.good_rate_per_s is not None or self.offered_per_s is not None

    @property
    def rank(self) -> float:
        """To take the median of several by: larger is better."""
        if self.good_rate_per_s is not None:
            return self.goodput_per_s or 0.0
        return self.tokens_per_s if self.offered_latency_ms is None else -self.offered_latency_ms

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Measurement:
        return cls(**record)


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a candidate's text is from the reference's: weights as stored, a 16-bit or wider cache.

    `kl` is KL(reference || candidate) of a token in nats, mean; `perplexity_change` a share (0.01: 1% worse).
    `tasks` holds losses of accuracy by task, in points (1.0: one point lost).
    """

    kl: float
    perplexity: float
    perplexity_change: float
    perplexity_change_stderr: float = 0.0
    top1_agreement: float = 1.0
    tasks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Quality:
        return cls(**record)


@dataclass(frozen=True, slots=True)
class Interaction:
    """The greedy text of the probe set beside that of the same weights without the serving tricks.

    `num_equal` of `num_probes` texts were equal to the bit with the same cache, which they all have to be;
    `agreement` is the share of tokens that the candidate's cache prefers where the 16-bit cache's own text went.
    """

    num_probes: int
    num_equal: int
    agreement: float = 1.0
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Interaction:
        return cls(**record)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a model of the machine expects of a candidate, before anything is measured. For a token that is written it
    takes `steps` of the engine and computes `prompt_tokens`."""

    tokens_per_s: float
    single_latency_ms: float
    memory_bytes: int
    binds: str = ""  # bandwidth, arithmetic, memory or queueing
    steps: float = 1.0
    prompt_tokens: float = 0.0
    answer_len: float = 1.0  # tokens
    weight_bytes: int = 0  # of `memory_bytes`: candidates with the same weights share them
