"""What a comparison says, in words with reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from vivace.plan.comparison import Candidate, best_of
from vivace.plan.deployment import Binding, TrafficShape
from vivace.plan.planned_model import PlannedModel

HELPS: dict[Binding, str] = {
    "bandwidth": "reading memory binds: fewer bits for weights or cache, a larger batch, or more bandwidth help",
    "arithmetic": "arithmetic binds: more or faster units help, shorter prompts and prefix caching too",
    "overhead": "the engine's own work a step binds, because the model is small: larger batches help",
    "memory": "memory binds: fewer bits for weights or cache, shorter contexts or more memory help",
    "queueing": "requests wait for each other: another replica helps, or fewer users",
}


def recommendation(model: PlannedModel, candidates: Sequence[Candidate], traffic: TrafficShape) -> list[str]:
    """Sentences, the answer first."""
    bests = [
        best
        for _, of_machine in groupby(candidates, key=lambda one: one.machine.name)
        if (best := best_of(list(of_machine)))
    ]
    if not bests:
        return [_nothing_fits(model, candidates)]
    sentences = [_answer(bests, traffic)]
    sentences += [_does_not_fit(name, ones) for name, ones in _unfitting(candidates)]
    sentences += sorted({f"{one.machine.name}: {_why(one)}" for one in bests})
    return sentences


def _answer(bests: Sequence[Candidate], traffic: TrafficShape) -> str:
    served = [one for one in bests if one.num_machines is not None]
    if not served:
        fastest = max(bests, key=lambda one: one.prediction.tokens_per_s)
        return (
            f"no machine here keeps {traffic.slo}; the fastest is {_named(fastest)}, "
            f"with a first token after {_ms(fastest.prediction.ttft_ms)} and "
            f"{_ms(fastest.prediction.tpot_ms)} a token"
        )
    priced = [one for one in served if one.cost_per_million is not None]
    if priced:
        best = min(priced, key=lambda one: one.cost_per_million or math.inf)
        return f"cheapest a token: {_named(best)}, {best.cost_per_million:.2f} for a million tokens"
    if traffic.slo is None and traffic.rate_per_s is None:
        best = max(served, key=lambda one: one.prediction.tokens_per_s)
        return f"fastest: {_named(best)}, {best.prediction.tokens_per_s:,.0f} tokens/s"
    best = min(served, key=lambda one: (one.num_machines or 0, one.machine.tdp_w or math.inf))
    goal = f" within {traffic.slo}" if traffic.slo else ""
    return f"fewest and smallest machines for this traffic{goal}: {_named(best)}"


def _named(one: Candidate) -> str:
    count = f"{one.num_machines} x " if (one.num_machines or 1) > 1 else ""
    return f"{count}{one.machine.title} with {one.deployment.quantization} weights"


def _why(one: Candidate) -> str:
    prediction = one.prediction
    users = "" if prediction.users_at_slo is None else f", {prediction.users_at_slo} users within the objectives"
    return (
        f"{one.deployment.quantization} weights, {prediction.tokens_per_s:,.0f} tokens/s at {prediction.running:.0f} "
        f"running{users}; {HELPS[prediction.binds]}"
    )


def _unfitting(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    for name, of_machine in groupby(candidates, key=lambda one: one.machine.name):
        listed = list(of_machine)
        if not any(one.prediction.fits for one in listed):
            yield name, listed


def _does_not_fit(name: str, candidates: Sequence[Candidate]) -> str:
    smallest = min(candidates, key=lambda one: one.prediction.memory.fixed_bytes)
    need, usable = smallest.prediction.memory.fixed_bytes, smallest.prediction.memory.usable_bytes
    if smallest.machine.runtime_bytes + smallest.prediction.memory.activation_bytes >= usable or need < usable:
        return f"{name}: a request of this length does not fit beside the weights or the model's own context"
    return (
        f"{name}: even {smallest.deployment.quantization} weights need {need / 1e9:.1f} of {usable / 1e9:.1f} GB, "
        f"the memory of {math.ceil(need / usable)} such devices; Vivace runs a model on one (no tensor parallelism)"
    )


def _nothing_fits(model: PlannedModel, candidates: Sequence[Candidate]) -> str:
    smallest = min(candidates, key=lambda one: one.prediction.memory.fixed_bytes)
    return (
        f"{model.name} fits none of these machines: it needs {smallest.prediction.memory.fixed_bytes / 1e9:.1f} GB "
        f"with {smallest.deployment.quantization} weights, beside keys and values; Vivace runs a model on one device"
    )


def _ms(value: float | None) -> str:
    return "no time" if value is None else f"{value:,.0f} ms"
