"""What each technique is worth here: from the naive baseline upwards, each alone and on top of those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.gate import Gate
from vivace.optimize.interval import Interval
from vivace.optimize.measurement import Measurement, Quality
from vivace.optimize.space import Space, Surroundings
from vivace.optimize.trials import Trials

LADDER_UNTIL = 0.36  # of the time budget
MOST_ROUNDS = 10
WORTH = 0.97  # a change of 3% is noise: what costs more, or brings less to everybody, is not kept


@dataclass(frozen=True, slots=True)
class Technique:
    """A change of a configuration. `serves` says what it is for, where that is not speed."""

    name: str
    apply: Callable[[Candidate], Candidate]
    serves: str = "speed"


@dataclass(frozen=True, slots=True)
class Rung:
    """A technique measured. Ratios are to the naive baseline alone, and to the rung below on top."""

    name: str
    on_top: Candidate
    below: Candidate
    kept: bool
    why_not: str
    quality: Quality | None
    alone_speed: Interval | None
    alone_latency: Interval | None  # how many times faster one user's answer is
    top_speed: Interval | None
    top_latency: Interval | None
    total_speed: Interval | None  # from the naive baseline to here
    measured: Measurement | None


@dataclass(frozen=True, slots=True)
class Step:
    """A technique in its place; `why_not` is empty where it was kept."""

    technique: Technique
    alone: Candidate
    on_top: Candidate
    below: Candidate
    why_not: str


@dataclass(slots=True)
class Ladder:
    """The naive baseline and the steps above it."""

    naive: Candidate
    steps: list[Step] = field(default_factory=list)

    @property
    def top(self) -> Candidate:
        """With every technique that was kept."""
        kept = [step.on_top for step in self.steps if not step.why_not]
        return kept[-1] if kept else self.naive

    def climb(self, trials: Trials, gate: Gate, techniques: Iterable[Technique]) -> None:
        """Measure every technique alone and on top, as far as the time goes, and decide what is kept."""
        at = self.naive
        for technique in techniques:
            step = Step(technique, technique.apply(self.naive), technique.apply(at), at, "")
            brief = [at, step.on_top]  # where there is no time for it alone
            for heat in (_heat(self.naive, step), brief):
                if trials.affords(heat, LADDER_UNTIL, name="ladder"):
                    trials.heat(heat, name="ladder", sweep=False)
                    break
            self.steps.append(replace(step, why_not=_objection(trials, gate, step)))
            at = at if self.steps[-1].why_not else step.on_top

    def repeat(self, trials: Trials, until: float) -> None:
        """All steps again, those on top of each other in one heat and those alone in another, while there is time:
        how sure is it."""
        chain = [self.naive, *(step.on_top for step in self.steps)]
        single = [self.naive, *(step.alone for step in self.steps)]
        for repetition in range(1, MOST_ROUNDS):
            for wanted in (chain, single):
                heat = [one for one in dict.fromkeys(wanted) if trials.measurement(one) is not None]
                if len(heat) > 1 and trials.affords(heat, until, name=f"ladder {repetition}"):
                    trials.heat(heat, name=f"ladder {repetition}", sweep=False)

    def rungs(self, trials: Trials) -> tuple[Rung, ...]:
        """The steps with what was measured of them."""
        return tuple(_rung(trials, self.naive, step) for step in self.steps)


def techniques(space: Space, surroundings: Surroundings, naive: Candidate) -> list[Technique]:
    """In order of impact over effort; those that this model allows."""
    weights = space.axes["quantization"]
    found = []
    if naive.quantization == "f32" and "bf16" in weights:
        found.append(
            Technique("16-bit weights", lambda one: replace(one, quantization="bf16", kv_cache_dtype="bf16"))
        )
    if "int8" in weights:
        found.append(Technique("8-bit weights", lambda one: _quantized(one, "int8")))
    enough = space.axes["max_num_seqs"][-1]
    if enough > 1:
        found.append(Technique("continuous batching", lambda one: _batched(one, enough)))
    found.append(Technique("prefix cache", lambda one: replace(one, enable_prefix_caching=True)))
    if "int8_per_token_head" in space.axes["kv_cache_dtype"]:
        found.append(
            Technique("8-bit KV cache", lambda one: replace(one, kv_cache_dtype="int8_per_token_head"), "memory")
        )
    for method in surroundings.drafts if surroundings.has_quality else ():
        found.append(_speculation(replace(method, num_speculative_tokens=4)))
    if "int4" in weights:
        found.append(Technique("4-bit weights", lambda one: _quantized(one, "int4")))
    return found


def _heat(naive: Candidate, step: Step) -> list[Candidate]:
    """What a step is compared with runs beside it."""
    return list(dict.fromkeys((naive, step.below, step.alone, step.on_top)))


def _objection(trials: Trials, gate: Gate, step: Step) -> str:
    """Why a technique does not stay on the ladder; empty where it does."""
    on_top = step.on_top
    measured, before = trials.measurement(on_top), trials.measurement(step.below)
    if measured is None or before is None:
        runs = trials.runs.get(on_top, [])
        return runs[0].failure if runs else "the time budget was over"
    if not gate.allows_quality(on_top, trials.quality(on_top)) or not gate.allows_memory(
        on_top, measured.memory_bytes
    ):
        return gate.refused[on_top]
    ratio = trials.ratio(on_top, step.below, throughput).value
    if step.technique.serves == "memory":
        saved = 1 - measured.kv_bytes_per_token / before.kv_bytes_per_token
        return (
            ""
            if ratio > 1 - saved / 2
            else f"{100 * (1 - ratio):.0f}% slower, which {100 * saved:.0f}% less cache is not worth"
        )
    if ratio < WORTH:
        return f"{100 * (1 - ratio):.0f}% slower here"
    gain = max(ratio, trials.ratio(on_top, step.below, quickness).value)
    return "" if gain >= 2 - WORTH else "brings nothing here"


def _rung(trials: Trials, naive: Candidate, step: Step) -> Rung:
    def gain(candidate: Candidate, baseline: Candidate, figure: Callable[[Measurement], float]) -> Interval | None:
        found = trials.ratio(candidate, baseline, figure)
        return None if math.isnan(found.value) else found

    alone, on_top, below = step.alone, step.on_top, step.below
    measured = trials.measurement(on_top)
    return Rung(
        name=step.technique.name,
        on_top=on_top,
        below=below,
        kept=not step.why_not,
        why_not=step.why_not,
        quality=None if measured is None else trials.known_quality(on_top),
        alone_speed=gain(alone, naive, throughput),
        alone_latency=gain(alone, naive, quickness),
        top_speed=gain(on_top, below, throughput),
        top_latency=gain(on_top, below, quickness),
        total_speed=gain(on_top, naive, throughput),
        measured=measured,
    )


def throughput(measured: Measurement) -> float:
    return measured.tokens_per_s


def quickness(measured: Measurement) -> float:
    """Answers a second of one user alone."""
    return 1e3 / measured.single_latency_ms


def _quantized(candidate: Candidate, quantization: str) -> Candidate:
    narrow = "bf16" if candidate.kv_cache_dtype == "f32" else candidate.kv_cache_dtype
    return replace(candidate, quantization=quantization, kv_cache_dtype=narrow)  # type: ignore[arg-type]


def _batched(candidate: Candidate, max_num_seqs: int) -> Candidate:
    budget = max(candidate.max_num_batched_tokens, max_num_seqs)
    return replace(candidate, batching="continuous", max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)


def _speculation(method: SpeculativeConfig) -> Technique:
    names = {"ngram": "guesses by n-grams", "draft_model": "guesses by a draft", "medusa": "guesses by Medusa heads"}
    return Technique(names[method.method], lambda one: replace(one, speculation=method))
