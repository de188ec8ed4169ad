"""One model on several machines, in several quantizations: predictions side by side, and the best of each machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name
from vivace.plan.deployment import Deployment, TrafficShape
from vivace.plan.machine import Machine
from vivace.plan.planned_model import PlannedModel
from vivace.plan.prediction import Prediction, meets_slo, predict
from vivace.plan.weights import STORED

# From the most precise to the least.
CPU_QUANTIZATIONS = ("bf16", "int8", "int4")
GPU_QUANTIZATIONS = ("bf16", "fp8", "w8a8", "awq")
# Mean tokens of prompt, answer, and what the prefix cache has of a prompt: assumptions, for want of a trace.
WORKLOADS = {
    "chat": (600, 150, 400),
    "rag": (3000, 200, 400),
    "long-prompt": (6000, 64, 0),
    "long-answer": (100, 1000, 0),
    "agent": (4000, 200, 3000),
    "uniform": (512, 128, 0),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One machine with one quantization. `num_machines`: replicas that serve the traffic within its objectives, or
    None where none can; without objectives, as many as its rate needs."""

    machine: Machine
    deployment: Deployment
    prediction: Prediction
    num_machines: int | None
    cost_per_million: float | None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine.name,
            "title": self.machine.title,
            "source": self.machine.source,
            "quantization": self.deployment.quantization,
            "num_machines": self.num_machines,
            "cost_per_million_tokens": self.cost_per_million,
            **self.prediction.record(),
        }


def workload_shape(name: str) -> TrafficShape:
    """By a name of `WORKLOADS`, or PROMPT:ANSWER or PROMPT:ANSWER:CACHED in tokens. Raises `ConfigError`."""
    if name in WORKLOADS:
        prompt, answer, cached = WORKLOADS[name]
        return TrafficShape(prompt, answer, cached)
    parts = name.split(":")
    if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
        prompt, answer, cached = [*map(int, parts), 0][:3]
        return TrafficShape(prompt, answer, cached)
    reason = f"unknown workload {name!r}{nearest_name(name, tuple(WORKLOADS))}, or PROMPT:ANSWER[:CACHED] in tokens"
    raise ConfigError(reason)


def compare(
    model: PlannedModel,
    machines: Sequence[Machine],
    traffic: TrafficShape,
    *,
    deployment: Deployment | None = None,
    quantizations: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """All of them, machine by machine. `prices` an hour by machine's name. Without `quantizations` those that are
    common on a machine of its kind, and the file's own."""
    base = deployment or Deployment()
    candidates = []
    for machine in machines:
        for quantization in quantizations or _common(model, machine):
            changed = replace(base, quantization=quantization)
            stored = model.stored if quantization == STORED else None
            prediction = predict(model.spec, machine, changed, traffic, stored=stored)
            price = (prices or {}).get(machine.name)
            cost = None if price is None else prediction.cost_per_million_tokens(price)
            candidates.append(Candidate(machine, changed, prediction, _num_machines(prediction, traffic), cost))
    return candidates


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """Of one machine: the most precise that keeps the objectives alone; else the one that needs the fewest machines;
    else, where nothing keeps them, the fastest; None where nothing fits."""
    fitting = [one for one in candidates if one.prediction.fits]
    if not fitting:
        return None
    served = [one for one in fitting if one.num_machines is not None]
    if served:
        return min(served, key=lambda one: one.num_machines or 0)  # the first of equals: the most precise
    return max(fitting, key=lambda one: one.prediction.tokens_per_s)


def _common(model: PlannedModel, machine: Machine) -> tuple[str, ...]:
    names = CPU_QUANTIZATIONS if machine.kind == "cpu" else GPU_QUANTIZATIONS
    known = tuple(name for name in names if name != "fp8" or "fp8" in machine.operations_per_s)
    return (STORED, *known) if model.stored is not None else known


def _num_machines(prediction: Prediction, traffic: TrafficShape) -> int | None:
    """Replicas, each of which gets its share of the traffic."""
    if not prediction.fits:
        return None
    if traffic.rate_per_s is not None and prediction.ttft_ms is None:
        needed = math.ceil(traffic.rate_per_s / max(prediction.requests_per_s, 1e-9))
        return None if traffic.slo is not None and not prediction.users_at_slo else needed + 1
    if traffic.slo is None or meets_slo(traffic.slo, prediction):
        return 1
    if not prediction.users_at_slo:
        return None
    wanted = traffic.concurrency if traffic.rate_per_s is None else prediction.running
    return max(2, math.ceil(wanted / prediction.users_at_slo))
