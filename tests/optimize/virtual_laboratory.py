"""A machine in virtual time: speeds follow from a formula, nothing runs, and every measurement takes its seconds."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.fusion import Fusion
from vivace.optimize.gate import Gate, QualityBar
from vivace.optimize.laboratory import Outcome
from vivace.optimize.measurement import Forecast, Interaction, Measurement, Quality
from vivace.optimize.notebook import Forgetful, Memory, Notebook
from vivace.optimize.objective import Objective
from vivace.optimize.optimization import Optimization
from vivace.optimize.space import Space, Surroundings, make_space, naive
from vivace.optimize.time_budget import TimeBudget
from vivace.optimize.trials import Trials

WEIGHT_SPEED = {"f32": 0.5, "auto": 1.0, "bf16": 1.0, "llm_int8": 1.5, "int8": 1.8, "w8a8": 2.0, "int4": 2.9}
WEIGHT_LOSS = {"f32": 0.0, "auto": 0.0, "bf16": 1e-5, "llm_int8": 4e-4, "int8": 2e-4, "w8a8": 1e-3, "int4": 8e-3}
WEIGHT_BYTES = {"f32": 4.0, "auto": 2.0, "bf16": 2.0, "llm_int8": 1.1, "int8": 1.06, "w8a8": 1.0, "int4": 0.56}
CACHE_SPEED = {"f32": 0.9, "bf16": 1.0, "int8_per_token_head": 1.05, "int4_k_per_channel": 1.08}
CACHE_SPEED |= {"int4_per_token_head": 1.12}
CACHE_LOSS = {"f32": 0.0, "bf16": 0.0, "int8_per_token_head": 1e-4, "int4_k_per_channel": 2e-3}
CACHE_LOSS |= {"int4_per_token_head": 0.4}  # the trap: fast and wrong
CACHE_BYTES = {"f32": 4.0, "bf16": 2.0, "int8_per_token_head": 1.06, "int4_k_per_channel": 0.6}
CACHE_BYTES |= {"int4_per_token_head": 0.6}

MOMENTS = 9  # of a heat, at which the baseline runs

SURROUNDINGS = Surroundings(
    is_float=True,
    num_parameters=10_000_000,
    head_dim=64,
    num_threads=2,
    users=32,
    longest_tokens=400,
    drafts=(SpeculativeConfig("ngram"),),
)


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C does."""


def true_speed(candidate: Candidate) -> float:
    """Tokens a second of the whole crowd."""
    batch = candidate.max_num_seqs ** (0.45 if candidate.batching == "continuous" else 0.0)
    budget = 1 - 0.03 * abs(
        {64: 3, 128: 2, 256: 1, 512: 0, 1024: 1, 2048: 2}.get(candidate.max_num_batched_tokens, 2)
    )
    blocks = {16: 1.0, 32: 1.01, 64: 0.98}[candidate.block_size]
    prefixes = 1.4 if candidate.enable_prefix_caching else 1.0
    guesses = 1.0
    if candidate.speculation is not None:
        guesses = {2: 1.04, 4: 1.06, 8: 0.97}[candidate.speculation.num_speculative_tokens]
    threads = 1.0 if candidate.num_threads == 2 else 0.6
    speed = WEIGHT_SPEED[candidate.quantization] * CACHE_SPEED[candidate.kv_cache_dtype]
    return 100.0 * speed * batch * budget * blocks * prefixes * guesses * threads


def true_latency_ms(candidate: Candidate) -> float:
    guesses = 1.0 if candidate.speculation is None else 1.5
    prefixes = 1.2 if candidate.enable_prefix_caching else 1.0
    threads = 1.0 if candidate.num_threads == 2 else 0.6
    return 4000 / (WEIGHT_SPEED[candidate.quantization] * guesses * prefixes * threads)


@dataclass
class VirtualLaboratory:
    """`noise` is the spread of a run; `slow` are spans of time in which everything takes twice as long.
    `stop_at` interrupts in that call of the laboratory."""

    noise: float = 0.0
    slow: tuple[tuple[float, float], ...] = ()
    stop_at: int | None = None
    forecast_error: Callable[[Candidate], float] = lambda _: 1.0
    liars: frozenset[str] = frozenset()  # cache types whose text differs with serving tricks
    offered_per_s: float | None = None
    seconds_a_run: Callable[[Candidate], float] = lambda _: 2.0
    now: float = 0.0
    num_calls: int = 0
    num_measured: int = 0
    num_judged: int = 0
    measured: list[Candidate] = field(default_factory=list)
    luck: Counter[str] = field(
        default_factory=Counter
    )  # runs of a candidate so far, shared by laboratories that go on

    def clock(self) -> float:
        return self.now

    def measure(self, candidates: Sequence[Candidate], share: float, sweep: bool) -> list[Outcome]:
        self._call()
        self.num_measured += 1
        self.measured += candidates
        seconds = sum(self.expected_s(one, sweep) for one in candidates) * share
        factors = [self._factor(self.now + seconds * place / (MOMENTS - 1)) for place in range(MOMENTS)]
        self.now += seconds
        pulses = tuple(500.0 * factor for factor in factors)
        mean = sum(factors) / MOMENTS
        return [Outcome(self._one(one, share, sweep, mean), pulses) for one in candidates]

    def _one(self, candidate: Candidate, share: float, sweep: bool, factor: float) -> Measurement:
        """On a machine at `factor` of its speed."""
        speed = true_speed(candidate) * factor * self._luck(candidate, share)
        latency = true_latency_ms(candidate) / factor
        return Measurement(
            tokens_per_s=speed,
            requests_per_s=speed / 40,
            ttft_ms=latency / 10,
            ttft_p95_ms=latency / 5,
            tpot_ms=latency / 40,
            itl_p95_ms=latency / 20,
            single_ttft_ms=latency / 10,
            single_tpot_ms=latency / 45,
            single_latency_ms=latency,
            weight_bytes=memory_bytes(candidate)[0],
            kv_pool_bytes=memory_bytes(candidate)[1],
            kv_bytes_per_token=int(1000 * CACHE_BYTES[candidate.kv_cache_dtype]),
            goodput_per_s=speed / (50 + candidate.max_num_batched_tokens / 20) if sweep else speed / 40,
            good_rate_per_s=speed / 40 if sweep else None,
            seconds=self.expected_s(candidate, sweep) * share,
            **(self._offered(self.offered_per_s, speed, latency) if sweep and self.offered_per_s else {}),
        )

    def _offered(self, rate_per_s: float, speed: float, latency: float) -> dict[str, float]:
        """Requests of 40 tokens queue as in front of one server."""
        queued = latency / max(0.001, 1 - 40 * rate_per_s / speed)
        return {"offered_per_s": rate_per_s, "offered_latency_ms": queued}

    def _call(self) -> None:
        if self.num_calls == self.stop_at:
            raise Interrupted
        self.num_calls += 1

    def expected_s(self, candidate: Candidate, sweep: bool) -> float:
        return self.seconds_a_run(candidate) * (2.5 if sweep else 1.0)

    def expected_loading_s(self, candidates: Sequence[Candidate]) -> float:  # noqa: ARG002
        return 0.0

    @property
    def loading_s(self) -> float:
        return 0.0

    def pulse(self) -> float:
        self._call()
        self.now += 0.1
        return 500.0 * self._factor(self.now)

    def quality(self, candidate: Candidate) -> Quality | None:
        self._call()
        self.num_judged += 1
        self.now += 1.0
        loss = WEIGHT_LOSS[candidate.quantization] + CACHE_LOSS[candidate.kv_cache_dtype]
        return Quality(kl=loss, perplexity=20 * (1 + loss), perplexity_change=loss)

    def interaction(self, candidate: Candidate) -> Interaction:
        self._call()
        self.now += 0.5
        return Interaction(8, 5 if candidate.kv_cache_dtype in self.liars else 8, 0.99)

    def fusion(self, candidate: Candidate) -> Fusion:  # noqa: ARG002
        self._call()
        self.now += 0.2
        return Fusion(32, 300, (1.3, 1.31, 1.29))

    def forecast(self, candidate: Candidate) -> Forecast:
        error = self.forecast_error(candidate)
        weights, pool = memory_bytes(candidate)
        speed, latency_ms = true_speed(candidate) * error, true_latency_ms(candidate) / error
        return Forecast(speed, latency_ms, weights + pool, "bandwidth", answer_len=40.0)

    def _factor(self, moment: float) -> float:
        return 0.5 if any(start <= moment < end for start, end in self.slow) else 1.0

    def _luck(self, candidate: Candidate, share: float) -> float:
        key = f"{candidate.key} {share}"
        self.luck[key] += 1
        digest = hashlib.sha256(f"{key} {self.luck[key]}".encode()).digest()
        return 1 + self.noise * random.Random(digest).uniform(-1, 1)


def memory_bytes(candidate: Candidate) -> tuple[int, int]:
    weights = 10_000_000 * WEIGHT_BYTES[candidate.quantization]
    return int(weights), int(candidate.max_num_seqs * 400 * 1000 * CACHE_BYTES[candidate.kv_cache_dtype])


def optimization(
    laboratory: VirtualLaboratory,
    *,
    memory: Memory | None = None,
    seconds: float = 600.0,
    bar: QualityBar | None = None,
    max_memory_bytes: int | None = None,
    objective: str = "throughput",
    surroundings: Surroundings = SURROUNDINGS,
    space: Space | None = None,
) -> Optimization:
    """The whole loop over the virtual machine."""
    notebook = Notebook(memory or Forgetful(), {"machine": "virtual"})
    budget = TimeBudget(seconds, laboratory.clock, laboratory.clock())
    aim = Objective(objective, laboratory.offered_per_s)  # type: ignore[arg-type]
    return Optimization(
        trials=Trials(laboratory, notebook, budget, lambda *_: None, sweeps=aim.is_at_rates),
        space=space or make_space(surroundings),
        surroundings=surroundings,
        naive=naive(surroundings),
        gate=Gate(bar or QualityBar(), max_memory_bytes),
        objective=aim,
    )
