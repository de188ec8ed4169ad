"""Percentiles and intervals against NumPy's on samples written out, and against the distributions they came from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vivace.bench.statistics import SHARES, distribution, share


def test_percentiles_are_numpys() -> None:
    groups = [[5.0, 1.0, 2.5], [], [9.0], [2.0, 7.0]]
    flat = [value for group in groups for value in group]
    found = distribution(groups)
    assert found is not None
    assert found.count == len(flat)
    assert found.max == 9.0
    assert found.mean.value == pytest.approx(np.mean(flat))
    for name, part in SHARES.items():
        assert getattr(found, name).value == pytest.approx(np.percentile(flat, 100 * part))


def test_nothing_and_one_value() -> None:
    assert distribution([]) is None
    assert distribution([[], []]) is None
    one = distribution([[3.0]])
    assert one is not None
    assert one.p99.value == one.mean.value == one.max == 3.0
    assert one.mean.low is None


def test_the_same_seed_gives_the_same_intervals() -> None:
    values = [[float(value)] for value in np.random.default_rng(1).exponential(size=200)]
    assert distribution(values, seed=7) == distribution(values, seed=7)
    assert distribution(values, seed=7) != distribution(values, seed=8)


def test_intervals_cover_what_they_promise() -> None:
    """Of 80 samples of 120 exponential latencies, the 95% intervals hold the true mean and median about 76 times.

    At least 68 times: percentile intervals of skewed samples fall a little short, and 80 rounds have a spread.
    """
    generator = np.random.default_rng(5)
    inside = {"mean": 0, "p50": 0}
    truth = {"mean": 1.0, "p50": math.log(2)}
    for number in range(80):
        found = distribution([[float(value)] for value in generator.exponential(size=120)], seed=number)
        assert found is not None
        for name in inside:
            estimate = getattr(found, name)
            inside[name] += estimate.low <= truth[name] <= estimate.high
    assert all(68 <= count < 80 for count in inside.values()), inside


def test_gaps_of_one_request_count_as_one() -> None:
    """Requests differ, the gaps of one do not: drawn alone, 5,000 gaps would promise ten times too much."""
    generator = np.random.default_rng(3)
    levels = generator.normal(50.0, 10.0, size=50)
    clustered = distribution([[float(level)] * 100 for level in levels])
    alone = distribution([[float(level)] for level in levels])
    assert clustered is not None
    assert alone is not None
    assert clustered.mean.low == pytest.approx(alone.mean.low, rel=0.02)
    assert clustered.mean.high == pytest.approx(alone.mean.high, rel=0.02)


def test_a_tail_that_was_not_seen_has_no_interval() -> None:
    few = distribution([[float(value)] for value in range(50)])
    assert few is not None
    assert few.p95.high is not None
    assert few.p99.high is None
    assert "p99" not in few.record()["interval"]  # type: ignore[operator]


def test_wilson_interval() -> None:
    """Wilson (1927) for 0 of 10: 0 to 0.2775; for 5 of 10: 0.2366 to 0.7634, as published in tables of it."""
    none, half = share(0, 10), share(5, 10)
    assert (none.low, none.high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert (half.low, half.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert math.isnan(share(0, 0).value)
