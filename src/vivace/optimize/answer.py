"""What the search found: the pick, who came second and why not, the front, what binds, how good forecasts were."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from typing import Any

from vivace.core.errors import ConfigError
from vivace.models.spec import ModelSpec
from vivace.optimize.candidate import Candidate
from vivace.optimize.claims import Claim, claims
from vivace.optimize.gains import Gains
from vivace.optimize.gate import Gate
from vivace.optimize.interval import Interval
from vivace.optimize.ladder import Ladder, Rung, quickness, throughput
from vivace.optimize.measurement import Forecast, Measurement, Quality
from vivace.optimize.objective import Objective
from vivace.optimize.pareto import front
from vivace.optimize.search import TIE, Dropped, Search
from vivace.optimize.space import Space
from vivace.optimize.trials import Trials

NEXT = {
    "bandwidth": "reading weights and cache takes most of a step: memory that reads faster, fewer bits (the bar on "
    "quality decides), or guesses that stand more often",
    "arithmetic": "computing takes most of a step: more cores or wider vector units, 8-bit activations, fewer tokens "
    "to compute (a longer shared prefix)",
    "overhead": "the engine's own work for a step takes most of it: larger steps (more users at once), or a larger "
    "model, for which it is nothing",
    "memory": "the KV pool bounds how many run at once: more memory, a narrower cache, a shorter context",
    "queueing": "requests wait for a place: a larger max_num_seqs, or more machines",
}


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate with all that is known of it. `prediction_error` is forecast / measured throughput - 1."""

    candidate: Candidate
    measured: Measurement
    repetitions: int
    quality: Quality | None
    forecast: Forecast | None
    refusal: str
    score: float
    tokens_per_s: float  # by all heats together, so that one machine's mood is everybody's
    times_naive: float  # the throughput, beside the naive baseline
    is_on_front: bool = False
    drift: float = 0.0

    @property
    def prediction_error(self) -> float | None:
        if self.forecast is None or not self.forecast.tokens_per_s:
            return None
        return self.forecast.tokens_per_s / self.measured.tokens_per_s - 1

    def record(self) -> dict[str, Any]:
        return {
            "candidate": asdict(self.candidate),
            "measured": self.measured.record(),
            "repetitions": self.repetitions,
            "quality": None if self.quality is None else self.quality.record(),
            "forecast": None if self.forecast is None else asdict(self.forecast),
            "prediction_error": self.prediction_error,
            "tokens_per_s": self.tokens_per_s,
            "times_naive": self.times_naive,
            "refusal": self.refusal,
            "is_on_front": self.is_on_front,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that the configuration file, the table and the report say."""

    objective: Objective
    pick: Result
    runner_up: Result | None
    why_not: str
    overlooked: Result | None  # better still as measured, but there was no time to judge its text
    lead: Interval | None  # the pick's score over the runner-up's, in common heats
    naive: Result
    results: tuple[Result, ...]  # of whole runs, in the order of their measurement
    rungs: tuple[Rung, ...]
    top: Candidate  # of the ladder
    claims: tuple[Claim, ...]
    speedup: Interval  # throughput, naive to pick
    quickening: Interval  # one user's answer
    binds: str
    next_step: str
    dropped: tuple[Dropped, ...]
    exclusions: tuple[tuple[str, str, str], ...]
    # Median errors of forecast throughputs before and after the recalibration, of candidates that it had not seen.
    forecast_errors: tuple[float, float] | None
    num_forecast: int
    num_partial: int
    num_discarded: int
    seconds: float
    extra: dict[str, Any] = field(default_factory=dict)  # how it was run: model, machine, workload

    @property
    def front(self) -> list[Result]:
        return [one for one in self.results if one.is_on_front]

    @property
    def overrun_s(self) -> float:
        """By how much the time budget did not suffice for the least that an answer needs."""
        budget = float(self.extra.get("time_budget_s", math.inf))
        return max(0.0, self.seconds - budget)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.extra,
            "objective": self.objective.name,
            "request_rate_per_s": self.objective.offered_per_s,
            "pick": self.pick.record(),
            "runner_up": None if self.runner_up is None else self.runner_up.record(),
            "why_not": self.why_not,
            "overlooked": None if self.overlooked is None else self.overlooked.record(),
            "lead": None if self.lead is None else asdict(self.lead),
            "naive": self.naive.record(),
            "speedup": asdict(self.speedup),
            "latency_speedup": asdict(self.quickening),
            "binds": self.binds,
            "next_step": self.next_step,
            "ladder": [_rung_record(rung) for rung in self.rungs],
            "claims": [{**asdict(one), "verdict": one.verdict} for one in self.claims],
            "results": [one.record() for one in self.results],
            "dropped": [[one.candidate.key, one.stage, one.reason] for one in self.dropped],
            "exclusions": [list(one) for one in self.exclusions],
            "median_prediction_error": None if self.forecast_errors is None else self.forecast_errors[1],
            "median_prediction_error_before": None if self.forecast_errors is None else self.forecast_errors[0],
            "num_forecast": self.num_forecast,
            "num_partial_runs": self.num_partial,
            "num_discarded": self.num_discarded,
            "seconds": self.seconds,
        }


def make_answer(
    trials: Trials,
    space: Space,
    gate: Gate,
    objective: Objective,
    ladder: Ladder | None,
    search: Search | None,
    spec: ModelSpec | None,
    checked: Set[Candidate],
) -> Answer:
    """The pick is one of `checked`, whose texts were compared, if there is one. Raises `ConfigError` where nothing
    that was measured passes the bars, saying what stood in the way."""
    known = trials.measurement(ladder.naive) if ladder is not None else None
    if ladder is None or search is None or known is None:
        raise ConfigError("nothing is measured yet: give it more time")
    accepted = search.accepted()
    if not accepted:
        reasons = sorted(set(gate.refused.values()))
        raise ConfigError(f"no configuration passes: {reasons[0] if reasons else 'the time was over'}")
    on_front = set(front(accepted, lambda one: _merits(trials, one)))
    gains = Gains(trials, ladder.naive)
    results = [_result(search, gains, one, one in on_front) for one in trials.runs if trials.measurement(one)]
    by_candidate = {one.candidate: one for one in results}
    ranked = [by_candidate[one] for one in search.ranking((checked & {*accepted}) or {*accepted})]
    pick, runner_up = ranked[0], _runner_up(ranked)
    binds = _binding(pick, results)
    return Answer(
        objective=objective,
        pick=pick,
        runner_up=runner_up,
        why_not="" if runner_up is None else _why_not(pick, runner_up),
        overlooked=_overlooked(pick, results, checked),
        lead=None if runner_up is None else search.standings.ratio(pick.candidate, runner_up.candidate),
        naive=by_candidate[ladder.naive],
        results=tuple(results),
        rungs=ladder.rungs(trials),
        top=ladder.top,
        claims=tuple(claims(trials, ladder, spec, pick.candidate)),
        speedup=gains.of(pick.candidate, throughput),
        quickening=gains.of(pick.candidate, quickness),
        binds=binds,
        next_step=NEXT.get(binds, ""),
        dropped=tuple(search.dropped),
        exclusions=tuple((one.axis, one.value, one.reason) for one in space.exclusions),
        forecast_errors=search.forecast_errors(),
        num_forecast=search.num_forecast,
        num_partial=len(trials.partial),
        num_discarded=trials.num_discarded,
        seconds=trials.budget.elapsed_s,
    )


def _merits(trials: Trials, candidate: Candidate) -> tuple[float, ...]:
    """Throughput or, at rates, goodput; quickness, at an offered rate that of its requests; memory and quality:
    larger is better."""
    measured, quality = trials.measurement(candidate), trials.quality(candidate)
    assert measured is not None
    loss = 0.0 if quality is None else quality.kl
    speed = throughput(measured) if measured.good_rate_per_s is None else measured.goodput_per_s or 0.0
    quick = 1e3 / measured.offered_latency_ms if measured.offered_latency_ms else quickness(measured)
    return speed, quick, -measured.memory_bytes, -loss


def _result(search: Search, gains: Gains, candidate: Candidate, is_on_front: bool) -> Result:
    trials = search.trials
    measured = trials.measurement(candidate)
    assert measured is not None
    return Result(
        candidate=candidate,
        measured=measured,
        repetitions=len(trials.runs[candidate]),
        quality=trials.known_quality(candidate),
        forecast=search.forecast(candidate),
        refusal=search.gate.refused.get(candidate, ""),
        score=search.score(candidate),
        tokens_per_s=gains.level(candidate, throughput),
        times_naive=gains.of(candidate, throughput).value,
        is_on_front=is_on_front,
        drift=max(one.drift for one in trials.runs[candidate]),
    )


def _runner_up(ranked: list[Result]) -> Result | None:
    """The best of another kind: with other weights, cache or speculation; else simply the second."""
    pick = ranked[0].candidate
    kinds = (
        one
        for one in ranked[1:]
        if {"quantization", "kv_cache_dtype", "speculation"} & {*one.candidate.differences(pick)}
    )
    return next(kinds, ranked[1] if len(ranked) > 1 else None)


def _overlooked(pick: Result, results: list[Result], checked: Set[Candidate]) -> Result | None:
    """The best that may be better than the pick, for all that is known."""
    open_ones = (
        one
        for one in results
        if one.candidate not in checked and not one.refusal and one.candidate.batching == "continuous"
    )
    best = max(open_ones, key=lambda one: one.score, default=None)
    return best if best is not None and TIE * best.score > pick.score else None


def _why_not(pick: Result, other: Result) -> str:
    """Without figures of speed: scores are of common heats, the figures beside them of each one's own."""
    if other.score < TIE * pick.score:
        return f"{100 * (1 - other.score / pick.score):.1f}% behind"
    if _loss(other) > _loss(pick):
        return f"as fast within noise, but KL divergence {_loss(other):.2g} against {_loss(pick):.2g} nats"
    own, its = pick.measured.memory_bytes / 2**20, other.measured.memory_bytes / 2**20
    if its < 1.01 * own:
        return "as fast within noise"
    return f"as fast within noise, but {its:,.0f} MiB against {own:,.0f}"


def _loss(result: Result) -> float:
    return 0.0 if result.quality is None else result.quality.kl


def _binding(pick: Result, results: list[Result]) -> str:
    """As forecast. Where that says that requests wait for a place, and more places were measured and are no better,
    it is what binds those."""
    if pick.forecast is None:
        return ""
    wider = [
        one.forecast.binds
        for one in results
        if one.candidate.differences(pick.candidate) == ("max_num_seqs",)
        and one.candidate.max_num_seqs > pick.candidate.max_num_seqs
        and one.forecast is not None
    ]
    return wider[0] if pick.forecast.binds == "queueing" and wider else pick.forecast.binds


def _rung_record(rung: Rung) -> dict[str, Any]:
    intervals = ("alone_speed", "alone_latency", "top_speed", "top_latency", "total_speed")
    found = {name: getattr(rung, name) for name in intervals}
    return {
        "technique": rung.name,
        "kept": rung.kept,
        "why_not": rung.why_not,
        "on_top": asdict(rung.on_top),
        **{name: None if one is None else asdict(one) for name, one in found.items()},
        "measured": None if rung.measured is None else rung.measured.record(),
        "quality": None if rung.quality is None else rung.quality.record(),
    }
