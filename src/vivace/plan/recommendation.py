"""What a comparison says, in words with reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from vivace.plan.comparison import Candidate, best_of
from vivace.plan.deployment import Binding
from vivace.plan.planned_model import PlannedModel
from vivace.plan.workload import Load

HELPS: dict[Binding, str] = {
    "bandwidth": "reading memory binds: fewer bits for weights or cache, a larger batch, or more bandwidth help",
    "arithmetic": "arithmetic binds: more or faster units help, shorter prompts and prefix caching too",
    "overhead": "the engine's own work a step binds, because the model is small: larger batches help",
    "memory": "memory binds: fewer bits for weights or cache, shorter contexts or more memory help",
    "queueing": "requests wait for each other: another replica helps, or fewer users",
}
WORTH_SAYING = 1.02  # times the tokens a second
ONE_DEVICE = "Vivace runs a model on one device (no tensor parallelism): replicas add throughput, never memory"


def recommendation(model: PlannedModel, candidates: Sequence[Candidate], load: Load) -> list[str]:
    """Sentences, the answer first."""
    bests = _bests(candidates)
    best = chosen(candidates, load)
    if best is None:
        return [_nothing_fits(model, candidates)]
    sentences = [_answer(best, load, candidates), *_replicas(bests)]
    sentences += [_does_not_fit(name, ones) for name, ones in _unfitting(candidates)]
    sentences += [f"{one.machine.name}: {_why(one, load)}" for one in bests]
    return sentences


def chosen(candidates: Sequence[Candidate], load: Load) -> Candidate | None:
    """The answer among the best of each machine: the cheapest a token where prices are known, else the fastest for
    users without objectives, else the fewest and smallest machines; where none keeps up the fastest, and None where
    nothing fits. Machines on which Vivace does not run today come last."""
    bests = _bests(candidates)
    served = [one for one in bests if one.num_machines is not None]
    served = [one for one in served if not one.machine.caveat] or served
    if not served:
        return max(bests, key=lambda one: one.tokens_per_s, default=None)
    priced = [one for one in served if one.cost_per_million is not None]
    if priced:
        return min(priced, key=lambda one: one.cost_per_million or math.inf)
    if _wants_speed(load):
        return max(served, key=lambda one: one.tokens_per_s)
    return min(served, key=lambda one: (one.num_machines or 0, one.machine.tdp_w or math.inf))


def _bests(candidates: Sequence[Candidate]) -> list[Candidate]:
    by_machine = groupby(candidates, key=lambda one: one.machine.name)
    found = (best_of(list(of_machine)) for _, of_machine in by_machine)
    return [best for best in found if best is not None]


def _wants_speed(load: Load) -> bool:
    return load.slo is None and load.rate_per_s is None


def _answer(best: Candidate, load: Load, candidates: Sequence[Candidate]) -> str:
    if best.num_machines is None:
        return f"no machine here keeps {_goal(load)}; the fastest is {_named(best)}: {_felt(best)}"
    narrower = _narrower(best, candidates)
    if best.cost_per_million is not None:
        full = "" if best.cost_when_full is None else f", {best.cost_when_full:.2f} with machines kept full"
        price = f"{best.cost_per_million:.2f} for a million tokens{full}"
        return f"cheapest a token: {_named(best)}, {price}{narrower}"
    if _wants_speed(load):
        return f"fastest: {_named(best)}, {best.tokens_per_s:,.0f} tokens/s: {_felt(best)}{narrower}"
    goal = f" within {_goal(load)}" if load.slo else ""
    return f"fewest and smallest machines for this traffic{goal}: {_named(best)}: {_felt(best)}"


def _narrower(best: Candidate, candidates: Sequence[Candidate]) -> str:
    """What weights of fewer bits would bring on the same machine: they are not chosen where nothing asks for them."""
    others = [one for one in candidates if one.machine.name == best.machine.name and one.num_machines is not None]
    other = max(others, key=lambda one: one.tokens_per_s / (one.num_machines or 1))
    gain = other.tokens_per_s / (other.num_machines or 1) * (best.num_machines or 1) / best.tokens_per_s
    if gain < WORTH_SAYING:
        return ""
    cost = "" if other.cost_per_million is None else f" at {other.cost_per_million:.2f} for a million"
    name = other.deployment.quantization
    return f"; {name} weights give {gain:.2f} times the tokens{cost}, and lose text: `vivace evaluate` says how much"


def _goal(load: Load) -> str:
    return f"{load.slo} for {100 * load.slo_share:g}% of requests" if load.slo else "up with this traffic"


def _felt(one: Candidate) -> str:
    found = one.outcome
    if found is None or found.ttft_ms is None:
        return "no answers"
    gap = "" if found.itl_ms is None else f", between tokens {_ms(found.itl_ms.p50)} and {_ms(found.itl_ms.p95)}"
    return f"first token after {_ms(found.ttft_ms.p50)} (p50) and {_ms(found.ttft_ms.p95)} (p95){gap}"


def _named(one: Candidate) -> str:
    count = f"{one.num_machines:,} x " if (one.num_machines or 1) > 1 else ""
    return f"{count}{one.machine.title} with {one.deployment.quantization} weights"


def _replicas(bests: Sequence[Candidate]) -> Iterator[str]:
    """Said once, where a machine is asked for more than once."""
    if any((one.num_machines or 1) > 1 for one in bests):
        yield "several machines are replicas behind a balancer, each with the whole model and its share of the load"


def _why(one: Candidate, load: Load) -> str:
    found = one.outcome
    assert found is not None  # best_of gives no other
    capacity = ""
    if one.capacity is not None and load.slo is not None:
        capacity = (
            f"; one takes up to {capacity_words(one, load)} within the objectives"
            if one.capacity.rate_per_s
            else "; it keeps the objectives for nobody"
        )
    caveat = f"{one.machine.caveat}; " if one.machine.caveat else ""
    return (
        f"{caveat}{one.deployment.quantization} weights, {one.tokens_per_s:,.0f} tokens/s, {found.running:.0f} "
        f"running at once{capacity}; {HELPS[one.binds]}"
    )


def capacity_words(one: Candidate, load: Load) -> str:
    """The most that one machine takes, in the load's own unit."""
    if one.capacity is None:
        return ""
    if load.rate_per_s is not None:
        return f"{one.capacity.rate_per_s:.3g} requests/s"
    return f"{one.capacity.users:,.0f} users ({one.capacity.rate_per_s:.3g} requests/s)"


def _unfitting(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    for name, of_machine in groupby(candidates, key=lambda one: one.machine.name):
        listed = list(of_machine)
        if all(one.outcome is None for one in listed):
            yield name, listed


def _does_not_fit(name: str, candidates: Sequence[Candidate]) -> str:
    smallest = min(candidates, key=lambda one: one.prediction.memory.fixed_bytes)
    need, usable = smallest.prediction.memory.fixed_bytes, smallest.prediction.memory.usable_bytes
    if smallest.machine.runtime_bytes + smallest.prediction.memory.activation_bytes >= usable or need < usable:
        return f"{name}: a request of this length does not fit beside the weights or the model's own context"
    return (
        f"{name}: even {smallest.deployment.quantization} weights need {need / 1e9:.1f} of {usable / 1e9:.1f} GB, "
        f"the memory of {math.ceil(need / usable)} such devices; {ONE_DEVICE}"
    )


def _nothing_fits(model: PlannedModel, candidates: Sequence[Candidate]) -> str:
    smallest = min(candidates, key=lambda one: one.prediction.memory.fixed_bytes)
    return (
        f"{model.name} fits none of these machines: it needs {smallest.prediction.memory.fixed_bytes / 1e9:.1f} GB "
        f"with {smallest.deployment.quantization} weights, beside keys and values; {ONE_DEVICE}"
    )


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
