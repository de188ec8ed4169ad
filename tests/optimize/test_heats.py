"""What makes measurements sure: turns, paired ratios, standings from many heats, races, knees, forecasts in line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import pytest
from virtual_laboratory import VirtualLaboratory, optimization, true_speed

from vivace.core.errors import ConfigError
from vivace.optimize.candidate import Candidate
from vivace.optimize.heat import run_heat
from vivace.optimize.interval import ratio_interval
from vivace.optimize.knee import ABOVE, GOOD_SHARE, Probe, RateRun, find_knee
from vivace.optimize.measurement import Measurement
from vivace.optimize.race import Race
from vivace.optimize.recalibration import CostTerms, Recalibration
from vivace.optimize.standings import Standings
from vivace.optimize.stopwatch import Stopwatch

BASE = Candidate(num_threads=2)


class Clock:
    """Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stopwatch_counts_its_own_time_alone() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    watch.start()
    clock.now = 2.0
    watch.stop()
    clock.now = 10.0
    watch.leap(100.0)
    watch.start()
    clock.now = 11.0
    assert watch.read() == 103.0


def test_runs_of_a_heat_meet_the_same_disturbances() -> None:
    """A machine that is three times slower for half of the heat: each run has its share, whatever its length."""
    clock = Clock()
    spent: dict[int, list[float]] = {0: [], 1: []}

    def play(index: int, steps: int, cost_s: float) -> Generator[float, None, Measurement]:
        for step in range(steps):
            slowness = 3.0 if 1.0 < clock.now < 3.0 else 1.0
            clock.now += cost_s * slowness
            spent[index].append(slowness)
            yield (step + 1) / steps
        raise ConfigError("no figures here")

    def pulse(seconds: float) -> float:
        clock.now += seconds
        return 300.0 if 1.0 < clock.now < 3.0 else 900.0

    heat = run_heat([play(0, 1000, 0.001), play(1, 100, 0.004)], pulse, clock)
    slow = [sum(one == 3.0 for one in steps) / len(steps) for steps in spent.values()]
    assert slow[0] == pytest.approx(slow[1], abs=0.03)
    assert heat.results == ("no figures here", "no figures here")
    assert {300.0, 900.0} == set(heat.pulses)


# The published critical values of the signed-rank test at 5%, two-sided (Wilcoxon, 1945, and later tables).
@pytest.mark.parametrize(("count", "critical"), [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (11, 10), (12, 13)])
def test_intervals_are_those_of_the_signed_rank_test(count: int, critical: int) -> None:
    draw = random.Random(count)
    logs = [draw.gauss(0.1, 0.05) for _ in range(count)]
    means = sorted((a + b) / 2 for place, a in enumerate(logs) for b in logs[place:])
    found = ratio_interval([math.exp(one) for one in logs])
    assert found.low is not None
    assert found.high is not None
    assert math.log(found.low) == pytest.approx(means[critical])
    assert math.log(found.high) == pytest.approx(means[-1 - critical])


def test_one_disturbed_run_moves_neither_value_nor_interval_far() -> None:
    found = ratio_interval([1.1, 1.11, 1.09, 1.1, 1.12, 1.08, 1.1, 9.0])
    assert found.value == pytest.approx(1.1, rel=0.01)
    assert found.low is not None
    assert found.low > 1.05


def standings_of(noise: float = 0.0) -> Standings:
    search = optimization(VirtualLaboratory(noise=noise), seconds=1e6)
    return Standings(search.trials, lambda _, measured: measured.tokens_per_s)


def candidates(count: int) -> list[Candidate]:
    """Of different speeds."""
    seqs = [8 * (2 + place) for place in range(count)]
    return [replace(BASE, max_num_seqs=one) for one in seqs]


def test_who_ran_once_does_not_hide_a_bad_heat() -> None:
    """Three newcomers in a heat at half speed: its luck is told by the one who is known from elsewhere."""
    standings = standings_of()
    known, *others = (replace(BASE, max_num_seqs=count) for count in (1, 2, 4, 8))
    for name in ("1", "2"):
        standings.trials.heat([known], name=name)
    for trial in standings.trials.heat([known, *others], name="slow"):
        assert trial.measurement is not None
        halved = replace(trial.measurement, tokens_per_s=trial.measurement.tokens_per_s / 2)
        standings.trials.runs[trial.candidate][-1] = replace(trial, measurement=halved)
    for one in (known, *others):
        assert standings.strength(one) == pytest.approx(true_speed(one))


def test_standings_join_heats_that_have_members_in_common() -> None:
    standings = standings_of(noise=0.01)
    a, b, c = candidates(3)
    for name in "123456":
        standings.trials.heat([a, b], name=name)
        standings.trials.heat([b, c], name=name)
    assert standings.ratio(a, c).count == 0, "they never met"
    for one in (a, b, c):
        assert standings.strength(one) == pytest.approx(true_speed(one), rel=0.02)
    assert standings.strength(replace(BASE, max_num_seqs=1)) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_race_ends_with_the_best(seed: int) -> None:
    standings = standings_of(noise=0.04)
    entrants = candidates(6)
    random.Random(seed).shuffle(entrants)
    race = Race(standings)
    race.run(entrants, 1.0)
    best = max(entrants, key=true_speed)
    assert true_speed(race.leader(entrants)) >= 0.97 * true_speed(best), f"seed {seed}"
    assert race.dropped, "the slowest is 40% behind"
    assert best not in race.dropped
    first = race.num_heats
    race.run(entrants, 1.0)
    assert race.num_heats <= first + 12
    assert set(race.dropped) & set(candidates(2)), "the slowest two"


def knee_of(good_share: Callable[[float], float], closed_rate: float) -> tuple[Probe, list[float]]:
    """The knee and the rates that were tried."""
    tried: list[float] = []

    def run(rate_per_s: float) -> RateRun:
        tried.append(rate_per_s)
        yield 0.5
        return Probe(rate_per_s, good_share(rate_per_s), rate_per_s * good_share(rate_per_s))

    steps: Iterator[float] = find_knee(run, closed_rate)
    shares = []
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as end:
            assert shares == sorted(shares)
            return end.value, tried


@pytest.mark.parametrize("limit", [13.0, 40.0, 77.0, 110.0])
def test_the_knee_is_found(limit: float) -> None:
    """Shares fall from 1 to 0 around the limit, as they do where a queue begins to grow."""
    knee, tried = knee_of(lambda rate: 1 / (1 + (rate / limit) ** 12), 100.0)
    true_knee = limit * (1 / GOOD_SHARE - 1) ** (1 / 12)
    assert knee.rate_per_s == pytest.approx(true_knee, abs=ABOVE * 100 / 16)
    assert knee.good_per_s == pytest.approx(GOOD_SHARE * knee.rate_per_s, rel=1e-6)
    assert len(tried) == 5


def test_knees_at_the_ends() -> None:
    lenient, tried = knee_of(lambda _: 1.0, 100.0)
    assert (lenient.rate_per_s, len(tried)) == (ABOVE * 100, 1)
    impossible, _ = knee_of(lambda _: 0.25, 100.0)
    assert impossible == Probe(0.0, 0.25, 0.0)


def test_forecasts_are_brought_in_line() -> None:
    """True costs are a sum of the parts: the fit of nine runs, one of them disturbed, is right about others."""
    draw = random.Random(4)

    def true_s(terms: CostTerms) -> float:
        return 0.6 * terms.seconds + 2e-4 * terms.steps + 1e-5 * terms.prompt_tokens

    def some() -> CostTerms:
        return CostTerms(draw.uniform(5e-5, 4e-4), 1 / draw.choice([1, 4, 16, 64]), draw.choice([1.5, 4.0]))

    seen = [some() for _ in range(9)]
    measured = [true_s(one) * (2.5 if place == 3 else 1.0) for place, one in enumerate(seen)]
    fitted = Recalibration.fit(seen, measured)
    assert min(fitted.weights) >= 0
    errors = [abs(fitted.seconds(one) / true_s(one) - 1) for one in (some() for _ in range(21))]
    assert sorted(errors)[10] < 0.05
    assert max(errors) < 0.2


def test_few_measurements_scale_forecasts_alone() -> None:
    seen = [CostTerms(seconds, 1.0, 1.0) for seconds in (1.0, 2.0, 4.0)]
    assert Recalibration.fit(seen, [1.5, 3.0, 5.0]).weights == (1.5, 0.0, 0.0, 0.0)
    assert Recalibration.fit([], []).seconds(seen[0]) == 1.0
