"""Will it fit, and how fast: one model, one machine, one way to serve it, one traffic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from vivace.bench.slo import SLO
from vivace.models.spec import ModelSpec
from vivace.plan.deployment import Binding, Deployment, TrafficShape
from vivace.plan.machine import Machine
from vivace.plan.memory import MemoryNeed, memory_need
from vivace.plan.steady_state import Service, SteadyState
from vivace.plan.step_time import StepModel, draft_step_model, step_model
from vivace.plan.weights import StoredEncodings

MAX_USERS = 65_536


@dataclass(frozen=True, slots=True)
class Prediction:
    """Means in a steady state; None where nothing is served: it does not fit, or requests come too fast.

    `itl_ms` is the gap between two tokens of a stream in the commoner kind of step, `tpot_ms` the mean over all.
    `prefill_ms` is one prompt alone, `decode_ms` a step of one stream. `users_at_slo`: how many at once keep the
    traffic's objectives, None without any. `binds` is what would have to grow for more throughput.
    """

    memory: MemoryNeed
    fits: bool
    ttft_ms: float | None
    itl_ms: float | None
    tpot_ms: float | None
    e2el_ms: float | None
    longest_gap_ms: float | None
    queue_ms: float | None
    tokens_per_s: float
    requests_per_s: float
    running: float
    users_at_slo: int | None
    prefill_ms: float | None
    decode_ms: float | None
    binds: Binding
    basis: str

    @property
    def weights_bytes(self) -> int:
        return self.memory.weights_bytes

    @property
    def kv_bytes(self) -> int:
        """Of the pool: what is left for keys and values."""
        return self.memory.kv_pool_bytes

    @property
    def activation_bytes(self) -> int:
        return self.memory.activation_bytes

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict(
    spec: ModelSpec,
    machine: Machine,
    configuration: Deployment,
    traffic: TrafficShape,
    *,
    stored: StoredEncodings | None = None,
) -> Prediction:
    """Takes some 0.1 ms, of which the search for `users_at_slo` is most. Raises `ConfigError` for names that are not
    known. `stored`: the encodings of a file, for the quantization "stored"."""
    need = memory_need(spec, machine, configuration, math.ceil(traffic.request_len), stored)
    if not need.fits:
        return _nothing(need, machine, "memory")
    model = step_model(spec, machine, configuration, stored)
    service = Service(model, draft_step_model(machine, configuration), configuration, traffic)
    most_running = min(configuration.most_running, need.max_sequences)
    if traffic.rate_per_s is None:
        state: SteadyState | None = service.closed(traffic.concurrency, most_running)
        wanted: float = traffic.concurrency
    else:
        state = service.open(traffic.rate_per_s, most_running)
        wanted = most_running + 1 if state is None else state.running
    users = None if traffic.slo is None else _users(service, traffic, most_running)
    full = service.closed(most_running, most_running) if state is None else state
    return _prediction(need, machine, model, configuration, traffic, state, full, users, wanted, most_running)


def meets(slo: SLO, state: SteadyState) -> bool:
    """Whether a typical request keeps its bounds."""
    bounds = (
        (slo.ttft, state.ttft_s),
        (slo.tpot, state.tpot_s),
        (slo.itl, state.longest_gap_s),
        (slo.e2el, state.e2el_s),
    )
    return all(bound is None or 1e3 * seconds <= bound for bound, seconds in bounds)


def _users(service: Service, traffic: TrafficShape, most_running: int) -> int:
    """The most users of a closed loop who keep the objectives: latencies grow with their number."""
    slo = traffic.slo
    assert slo is not None  # the caller asked for them
    low, high = 0, 1
    while high <= MAX_USERS and meets(slo, service.closed(high, most_running)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if meets(slo, service.closed(middle, most_running)):
            low = middle
        else:
            high = middle
    return low


def _prediction(
    need: MemoryNeed,
    machine: Machine,
    model: StepModel,
    configuration: Deployment,
    traffic: TrafficShape,
    state: SteadyState | None,
    full: SteadyState,
    users: int | None,
    wanted: float,
    most_running: int,
) -> Prediction:
    prompt = min(traffic.prompt_len, float(configuration.max_num_batched_tokens))
    num_chunks = math.ceil(traffic.prompt_len / prompt)
    middle = (traffic.prompt_len - prompt) / 2
    return Prediction(
        memory=need,
        fits=True,
        ttft_ms=None if state is None else 1e3 * state.ttft_s,
        itl_ms=None if state is None else 1e3 * state.itl_s,
        tpot_ms=None if state is None else 1e3 * state.tpot_s,
        e2el_ms=None if state is None else 1e3 * state.e2el_s,
        longest_gap_ms=None if state is None else 1e3 * state.longest_gap_s,
        queue_ms=None if state is None else 1e3 * state.queue_s,
        tokens_per_s=full.tokens_per_s,
        requests_per_s=full.requests_per_s,
        running=full.running,
        users_at_slo=users,
        prefill_ms=1e3 * num_chunks * model.seconds(0, 0, 1, prompt, middle),
        decode_ms=1e3 * model.seconds(1, traffic.prompt_len + traffic.output_len / 2),
        binds=_binding(need, configuration, state, full, wanted, most_running),
        basis=machine.efficiency.basis,
    )


def _binding(
    need: MemoryNeed,
    configuration: Deployment,
    state: SteadyState | None,
    full: SteadyState,
    wanted: float,
    most_running: int,
) -> Binding:
    if wanted > need.max_sequences and need.max_sequences < configuration.most_running:
        return "memory"
    if state is None or wanted > most_running or state.queue_s > 0.5 * state.e2el_s:
        return "queueing"
    share = full.mixed_share
    parts: dict[Binding, float] = {
        "bandwidth": (1 - share) * full.plain.bandwidth_s + share * full.mixed.bandwidth_s,
        "arithmetic": (1 - share) * full.plain.arithmetic_s + share * full.mixed.arithmetic_s,
        "overhead": (1 - share) * full.plain.overhead_s + share * full.mixed.overhead_s,
    }
    return max(parts, key=lambda name: parts[name])


def _nothing(need: MemoryNeed, machine: Machine, binds: Binding) -> Prediction:
    return Prediction(
        memory=need,
        fits=False,
        ttft_ms=None,
        itl_ms=None,
        tpot_ms=None,
        e2el_ms=None,
        longest_gap_ms=None,
        queue_ms=None,
        tokens_per_s=0.0,
        requests_per_s=0.0,
        running=0.0,
        users_at_slo=None,
        prefill_ms=None,
        decode_ms=None,
        binds=binds,
        basis=machine.efficiency.basis,
    )
