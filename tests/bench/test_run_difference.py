"""Differences between runs: what is known to differ is found, what does not differ is not, at the rate promised."""

from __future__ import annotations

import random

import pytest

from vivace.bench.records import RequestRecord
from vivace.bench.run_difference import Difference, differences
from vivace.bench.slo import SLO


def records(seed: int, num: int = 200, factor: float = 1.0, status: str = "ok") -> list[RequestRecord]:
    """Requests that take about 100 ms to the first token and 10 ms to each of nine more, times a factor."""
    random_, made, clock = random.Random(seed), [], 0.0
    for index in range(num):
        clock += random_.expovariate(10)
        times = [clock + factor * 0.1 * random_.lognormvariate(0, 0.2)]
        times += [times[0] + factor * 0.01 * (step + random_.random() / 10) for step in range(1, 10)]
        kept = "error" if status != "ok" and index % 4 == 0 else "ok"
        made.append(RequestRecord(index, clock, clock, times[-1], kept, 20, 10, tuple(times)))
    return made


def named(found: list[Difference]) -> dict[str, Difference]:
    return {one.name: one for one in found}


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "worse"), (0.5, "better")])
def test_a_known_factor_is_found(factor: float, verdict: str) -> None:
    found = named(differences(records(1), records(2, factor=factor), SLO(ttft=150)))
    for name in ("TTFT p50", "TPOT p50", "E2EL p50"):
        one = found[name]
        assert one.verdict == verdict
        assert one.ratio == pytest.approx(factor, rel=0.1)
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.ratio <= one.high
    assert found["goodput"].verdict == verdict
    assert found["requests"].verdict == "the same"  # an open loop: the traffic says how many come


def test_equal_runs_are_the_same_about_as_often_as_promised() -> None:
    """95% intervals of 12 pairs and 3 measures: 2 of 36 are expected to miss, 8 or more are very unlikely."""
    wrong = 0
    for seed in range(12):
        found = named(differences(records(1000 + 2 * seed, 60), records(1001 + 2 * seed, 60)))
        wrong += sum(found[name].verdict != "the same" for name in ("TTFT p50", "TPOT p50", "requests"))
    assert wrong < 8


def test_failures_are_a_difference() -> None:
    found = named(differences(records(1), records(2, status="error")))
    assert found["answered"].verdict == "worse"
    assert found["answered"].after == pytest.approx(0.75)


def test_too_few_requests_tell_nothing() -> None:
    found = differences(records(1, 3), records(2, 3))
    assert {one.verdict for one in found if one.unit == "ms"} == {"unknown"}
    assert named(differences(records(1, 50), records(2, 50)))["TTFT p99"].verdict == "unknown"


def test_runs_without_answers() -> None:
    failed = [RequestRecord(0, 0.0, 0.0, 1.0, "error", 5, 0, error="refused: no")]
    names = [one.name for one in differences(failed, records(1))]
    assert "TTFT p50" not in names
    assert differences([], records(1)) == []
