"""Values of the closed loop: what is parsed, what is compared, what is refused."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.slo import SLO
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.candidate import Candidate
from vivace.optimize.drift import DriftGuard
from vivace.optimize.gate import Gate, QualityBar, parse_bytes
from vivace.optimize.interval import ratio_interval
from vivace.optimize.laboratory import Outcome
from vivace.optimize.measurement import Interaction, Measurement, Quality
from vivace.optimize.objective import Objective
from vivace.optimize.pareto import dominates, front
from vivace.optimize.space import Surroundings, is_sound, make_space, usual
from vivace.optimize.time_budget import parse_seconds

SURROUNDINGS = Surroundings(
    is_float=True, num_parameters=1000, head_dim=64, num_threads=4, users=10, longest_tokens=300
)


def measurement(tokens_per_s: float = 100.0, **changes: object) -> Measurement:
    figures = dict.fromkeys(
        ("requests_per_s", "ttft_ms", "ttft_p95_ms", "tpot_ms", "itl_p95_ms", "single_ttft_ms", "single_tpot_ms"), 1.0
    )
    whole = {"weight_bytes": 10, "kv_pool_bytes": 5, "kv_bytes_per_token": 1, "single_latency_ms": 20.0, **figures}
    return Measurement(tokens_per_s=tokens_per_s, **{**whole, **changes})  # type: ignore[arg-type]


def test_a_candidate_survives_its_key() -> None:
    one = Candidate(speculation=SpeculativeConfig("ngram", num_speculative_tokens=3), num_threads=2)
    assert Candidate.from_record(json.loads(one.key)) == one
    assert Candidate.from_record(asdict(one)) == one
    assert one.differences(replace(one, block_size=32)) == ("block_size",)


def test_measurements_survive_json() -> None:
    for one in (measurement(), Quality(0.1, 5.0, 0.01, tasks={"arc": 0.5}), Interaction(8, 7, 0.9)):
        assert type(one).from_record(json.loads(json.dumps(one.record()))) == one


def test_scaling_a_measurement_scales_rates_and_times_alone() -> None:
    scaled = measurement(goodput_per_s=2.0).scaled(2.0)
    assert (scaled.tokens_per_s, scaled.goodput_per_s) == (200.0, 4.0)
    assert (scaled.single_latency_ms, scaled.ttft_ms, scaled.weight_bytes) == (10.0, 0.5, 10)


@pytest.mark.parametrize(("text", "num_bytes"), [("2GiB", 2 << 30), ("800M", 800 << 20), ("1.5kb", 1500), ("77", 77)])
def test_memory(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "2 apples", "-1G", "0", "nan", "1e999", "1TiBs"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45), (" 2M ", 120)])
def test_time_budgets(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "soon", "-1m", "0.1", "inf", "nan", "1d"])
def test_time_budgets_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="time budget"):
        parse_seconds(text)


def test_quality_bars() -> None:
    bar = QualityBar.parse(["kl:0.01,ppl:1%", "task:2"])
    assert bar == QualityBar(0.01, 0.01, 2.0)
    assert str(bar) == "kl:0.01 ppl:1% task:2"
    assert QualityBar.parse([]) == QualityBar()
    assert QualityBar.parse(["ppl:1%"]).kl is None
    for wrong in ("kl", "kl:x", "perplexity:1", "kl:-1", "kl:1%", "kl:nan"):
        with pytest.raises(ConfigError):
            QualityBar.parse([wrong])


@pytest.mark.parametrize(
    ("bar", "quality"),
    [
        (QualityBar(0.02), Quality(0.021, 1.0, 0.0)),
        (QualityBar(0.02), Quality(math.nan, 1.0, 0.0)),
        (QualityBar(None, 0.01), Quality(0.0, 1.0, 0.011)),
        (QualityBar(None, None, 1.0), Quality(0.0, 1.0, 0.0, tasks={"arc": 1.5})),
    ],
)
def test_what_loses_too_much_is_refused(bar: QualityBar, quality: Quality) -> None:
    gate, candidate = Gate(bar), Candidate()
    assert not gate.allows_quality(candidate, quality)
    assert candidate in gate.refused
    assert Gate(bar).allows_quality(candidate, Quality(0.0, 1.0, -0.5, tasks={"arc": -3.0}))


def test_texts_that_differ_are_refused() -> None:
    gate = Gate(QualityBar())
    assert gate.allows_interaction(Candidate(), Interaction(16, 16, 0.99))
    assert not gate.allows_interaction(Candidate(), Interaction(16, 15, 1.0))
    assert not gate.allows_interaction(Candidate(), Interaction(16, 16, 0.5))
    assert not gate.allows_interaction(Candidate(), Interaction(16, 16, math.nan))


def test_objectives() -> None:
    assert Objective.parse(None, None).name == "throughput"
    assert Objective.parse(None, SLO(ttft=5)).name == "goodput"
    assert Objective.parse(None, None, 4.0) == Objective("latency", 4.0)
    assert Objective.parse(None, SLO(ttft=5), 4.0) == Objective("goodput", 4.0)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="above 0"):
            Objective.parse(None, None, rate)
    with pytest.raises(ConfigError, match="at its limit"):
        Objective.parse("throughput", None, 4.0)
    with pytest.raises(ConfigError, match="SLO"):
        Objective.parse("goodput", None)
    with pytest.raises(ConfigError, match="latency"):
        Objective.parse("latancy", None)
    four, two = Candidate(num_threads=4), Candidate(num_threads=2)
    cost = Objective("cost")
    assert cost.score(two, measurement(100)) == 2 * cost.score(four, measurement(100))
    goodput = Objective("goodput")
    assert goodput.score(two, measurement(goodput_per_s=3.0)) == 0.0, "of a closed loop"
    assert goodput.score(two, measurement(goodput_per_s=3.0, good_rate_per_s=4.0)) == 3.0
    none, few = (measurement(goodput_per_s=0.0, good_rate_per_s=0.0, good_share=share) for share in (0.0, 0.5))
    assert 0 < goodput.score(two, none) < goodput.score(two, few) < 1e-5
    assert Objective("latency").score(two, measurement(single_latency_ms=10.0)) == 100.0


def test_the_space_follows_its_surroundings() -> None:
    space = make_space(SURROUNDINGS)
    assert space.axes["max_num_seqs"] == (1, 4, 16)
    assert space.axes["num_threads"] == (4, 2)
    assert usual(space).quantization == "bf16"
    assert usual(space).max_num_batched_tokens == 512
    assert usual(make_space(replace(SURROUNDINGS, num_threads=None))).max_num_batched_tokens == 2048
    stored = make_space(replace(SURROUNDINGS, is_float=False, head_dim=1024, fixed_threads=3))
    assert stored.axes["quantization"] == ("auto",)
    assert stored.axes["kv_cache_dtype"] == ("bf16",)
    assert stored.axes["num_threads"] == (3,)
    assert {one.axis for one in stored.exclusions} >= {"quantization", "kv_cache_dtype"}


def test_neighbours_are_sound_and_differ_in_one_value() -> None:
    space = make_space(SURROUNDINGS)
    candidates = list(space.candidates())
    assert all(map(is_sound, candidates))
    for one in random.Random(3).sample(candidates, 50):
        for other in space.neighbours(one):
            assert is_sound(other)
            differences = set(other.differences(one))
            assert len(differences) == 1 or differences == {"max_num_seqs", "max_num_batched_tokens"}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_the_front_is_what_nobody_dominates(points: list[tuple[int, int, int]]) -> None:
    best = front(points, lambda point: point)
    assert all(not any(dominates(other, point) for other in points) for point in best)
    assert all(any(dominates(other, point) for other in best) for point in points if point not in best)
    assert bool(best) == bool(points)


def test_ratios_with_their_interval() -> None:
    assert math.isnan(ratio_interval([]).value)
    assert ratio_interval([2.0]).low is None
    found = ratio_interval([1.9, 2.0, 2.1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.value == pytest.approx((1.9 * 2.0 * 2.1) ** (1 / 3))


def outcome(tokens_per_s: float, *pulses: float) -> list[Outcome]:
    return [Outcome(measurement(tokens_per_s), pulses)]


def test_what_was_measured_while_the_baseline_moved_is_measured_again() -> None:
    guard = DriftGuard(lambda: 100.0)
    heats = iter([outcome(10.0, 100.0, 90.0, 50.0), outcome(7.0, 50.0, 49.0, 51.0)])
    (found,) = guard.measure(lambda: next(heats))
    assert found.num_discarded == 1
    assert found.measurement is not None
    assert found.measurement.tokens_per_s == pytest.approx(14.0)  # 7 tok/s at half the baseline's speed


def test_a_machine_that_never_rests_gives_its_calmest_heat() -> None:
    heats = iter([outcome(10.0, 100.0, 200.0), outcome(11.0, 100.0, 140.0), outcome(12.0, 300.0, 100.0)])
    (found,) = DriftGuard(lambda: 100.0).measure(lambda: next(heats))
    assert found.drift == pytest.approx(0.4)
    assert found.num_discarded == 2


def test_a_heat_that_failed_is_not_repeated() -> None:
    (found,) = DriftGuard(lambda: 100.0).measure(lambda: [Outcome(None, (), "no room")])
    assert (found.measurement, found.failure, found.num_discarded) == (None, "no room", 0)
