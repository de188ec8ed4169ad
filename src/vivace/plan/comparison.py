"""One model on several machines, in several quantizations: simulated side by side, and the best of each machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vivace.core.step_size import usual_tokens_a_step
from vivace.plan.deployment import Binding, Deployment
from vivace.plan.machine import Machine
from vivace.plan.outcome import Outcome
from vivace.plan.planned_model import PlannedModel
from vivace.plan.prediction import Prediction, predict
from vivace.plan.service import MAX_USERS, Capacity, PlannedService
from vivace.plan.weights import STORED
from vivace.plan.workload import Load, Workload

# From the most precise to the least.
CPU_QUANTIZATIONS = ("bf16", "int8", "int4")
GPU_QUANTIZATIONS = ("bf16", "fp8", "w8a8", "awq")
MOST_MACHINES = 10_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One machine with one quantization.

    `num_machines`: replicas, each with the whole model, that serve the load within its objectives, or None where none
    can. `outcome`: what its requests then feel, each replica with its share of the load; where none can, of one
    machine with all of it, or with as many users as are played; None where nothing fits. `capacity`: the most that
    one machine takes, None where nobody asked.
    """

    machine: Machine
    deployment: Deployment
    prediction: Prediction
    outcome: Outcome | None
    capacity: Capacity | None
    num_machines: int | None
    price_per_hour: float | None

    @property
    def tokens_per_s(self) -> float:
        """Of all replicas together."""
        return (self.num_machines or 1) * self.outcome.tokens_per_s if self.outcome else 0.0

    @property
    def cost_per_million(self) -> float | None:
        """Of output tokens under this load, at the price of one machine; None without a price or an answer."""
        return self._cost(self.num_machines, self.tokens_per_s)

    @property
    def cost_when_full(self) -> float | None:
        """The same with every machine as full as the objectives allow."""
        full = None if self.capacity is None else self.capacity.outcome
        return None if full is None else self._cost(1, full.tokens_per_s)

    @property
    def binds(self) -> Binding:
        return self.prediction.binds if self.outcome is None else self.outcome.binds

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine.name,
            "title": self.machine.title,
            "source": self.machine.source,
            "quantization": self.deployment.quantization,
            "num_machines": self.num_machines,
            "cost_per_million_tokens": self.cost_per_million,
            "cost_per_million_tokens_when_full": self.cost_when_full,
            "simulated": None if self.outcome is None else self.outcome.record(),
            "capacity": None if self.capacity is None else asdict(self.capacity),
            **self.prediction.record(),
            "binds": self.binds,
        }

    def _cost(self, num_machines: int | None, tokens_per_s: float) -> float | None:
        if self.price_per_hour is None or num_machines is None or not tokens_per_s:
            return None
        return num_machines * self.price_per_hour / 3600 / tokens_per_s * 1e6


def compare(
    model: PlannedModel,
    machines: Sequence[Machine],
    workload: Workload,
    load: Load,
    *,
    deployment: Deployment | None = None,
    usual_steps: bool = False,
    quantizations: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> list[Candidate]:
    """All of them, machine by machine. `prices` an hour by machine's name. Without `quantizations` those that are
    common on a machine of its kind, and the file's own. `usual_steps`: as large as they are on
    each machine where nobody says."""
    base = deployment or Deployment()
    pairs = [
        (machine, replace(_usual(base, machine) if usual_steps else base, quantization=quantization))
        for machine in machines
        for quantization in quantizations or _common(model, machine)
    ]
    candidates = []
    for index, (machine, changed) in enumerate(pairs):
        candidates.append(_candidate(model, machine, changed, workload, load, (prices or {}).get(machine.name)))
        if progress is not None:
            progress(index + 1, len(pairs))
    return candidates


def _usual(deployment: Deployment, machine: Machine) -> Deployment:
    tokens = usual_tokens_a_step(on_gpu=machine.kind == "gpu", max_num_seqs=deployment.max_num_seqs)
    return replace(deployment, max_num_batched_tokens=tokens)


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """Of one machine: the most precise that keeps the objectives alone; else the one that needs the fewest machines;
    else, where nothing keeps them, the fastest; None where nothing fits."""
    fitting = [one for one in candidates if one.outcome is not None]
    if not fitting:
        return None
    served = [one for one in fitting if one.num_machines is not None]
    if served:
        return min(served, key=lambda one: one.num_machines or 0)  # the first of equals: the most precise
    return max(fitting, key=lambda one: one.tokens_per_s)


def _candidate(
    model: PlannedModel,
    machine: Machine,
    deployment: Deployment,
    workload: Workload,
    load: Load,
    price: float | None,
) -> Candidate:
    stored = model.stored if deployment.quantization == STORED else None
    service = PlannedService(model.spec, machine, deployment, workload, stored=stored)
    prediction = predict(model.spec, machine, deployment, workload.shape(load), stored=stored)
    if not (service.memory.fits and prediction.fits):
        return Candidate(machine, deployment, prediction, None, None, None, price)
    played = _playable(load)
    alone = service.play(played)
    is_enough = played == load and _keeps(alone, load)
    capacity = None
    if load.slo is not None or not is_enough:
        asked = load if load.users is not None or load.rate_per_s is not None else replace(load, users=8)
        capacity = service.capacity(asked, _guess(prediction, load))
    num_machines = 1 if is_enough else _replicas(load, capacity)
    outcome = alone if num_machines in (None, 1) else service.play(_share(load, num_machines or 1))
    return Candidate(machine, deployment, prediction, outcome, capacity, num_machines, price)


def _playable(load: Load) -> Load:
    """Plays grow with the crowd: of one that no machine is asked to serve alone, as many as it could be."""
    if load.users is None or load.slo is None or load.users <= MAX_USERS:
        return load
    return replace(load, users=MAX_USERS)


def _keeps(outcome: Outcome, load: Load) -> bool:
    is_good = outcome.good_share is None or outcome.good_share >= load.slo_share
    return is_good and (load.users is not None or outcome.keeps_up)


def _guess(prediction: Prediction, load: Load) -> float | None:
    """Where the steady state would end, for the search to begin near it."""
    if load.rate_per_s is not None:
        return min(load.rate_per_s, prediction.requests_per_s) or None
    return prediction.users_at_slo or None


def _replicas(load: Load, capacity: Capacity | None) -> int | None:
    """Machines among which the load is divided evenly, where one was not enough: two at least, however much the
    search found that one takes (plays of other loads may be luckier). None: not even a small share of it is served
    well, or it comes at a trace's own times, which cannot be divided."""
    if capacity is None or not capacity.rate_per_s:
        return None
    if load.rate_per_s is not None:
        count = math.ceil(load.rate_per_s / capacity.rate_per_s)
    elif load.users is not None:
        count = math.ceil(load.users / capacity.users)
    else:
        return None
    return max(2, count) if count <= MOST_MACHINES else None


def _share(load: Load, num_machines: int) -> Load:
    if load.rate_per_s is not None:
        return replace(load, rate_per_s=load.rate_per_s / num_machines)
    return replace(load, users=math.ceil((load.users or 1) / num_machines))


def _common(model: PlannedModel, machine: Machine) -> tuple[str, ...]:
    names = CPU_QUANTIZATIONS if machine.kind == "cpu" else GPU_QUANTIZATIONS
    known = tuple(name for name in names if name != "fp8" or "fp8" in machine.operations_per_s)
    return (STORED, *known) if model.stored is not None else known
