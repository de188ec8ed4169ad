"""Arrivals against the distributions that they claim: moments, Kolmogorov-Smirnov against closed forms, ramps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from vivace.bench.traffic.arrivals import Ramp, arrivals
from vivace.bench.traffic.load_shape import LoadShape
from vivace.core.errors import ConfigError

COUNT = 20_000
SEEDS = (1, 2026)
KS_BOUND = 1.95  # of D * sqrt(n): exceeded once in a thousand by the distribution itself


def _gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


def _erlang(shape: int, rate: float) -> Callable[[float], float]:
    """The gamma distribution of whole shape: 1 - exp(-x) * sum of x^k/k!."""

    def distribution(gap: float) -> float:
        x = gap * rate * shape
        return 1 - math.exp(-x) * sum(x**k / math.factorial(k) for k in range(shape))

    return distribution


def _chi_square_half(rate: float) -> Callable[[float], float]:
    """The gamma distribution of shape 1/2: the square of a normal variable."""
    return lambda gap: math.erf(math.sqrt(gap * rate / 2))


def _ks(gaps: list[float], distribution: Callable[[float], float]) -> float:
    values = [distribution(gap) for gap in sorted(gaps)]
    n = len(values)
    distance = max(max((i + 1) / n - value, value - i / n) for i, value in enumerate(values))
    return distance * math.sqrt(n)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.5, 40.0])
@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_gaps_are_of_the_gamma_distribution(seed: int, rate: float, burstiness: float) -> None:
    gaps = _gaps(arrivals(COUNT, rate, burstiness=burstiness, seed=seed))
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    closed = _chi_square_half(rate) if burstiness == 0.5 else _erlang(int(burstiness), rate)
    ks = _ks(gaps, closed)
    print(
        f"seed {seed}: mean {mean * rate:.4f}/rate, variance {variance * rate * rate * burstiness:.4f}, KS {ks:.3f}"
    )
    error = 1 / math.sqrt(burstiness * len(gaps))
    assert mean * rate == pytest.approx(1, abs=4 * error)
    # The variance's own error: kurtosis of a gamma distribution is 3 + 6/shape.
    assert variance * rate**2 * burstiness == pytest.approx(1, abs=4 * math.sqrt((2 + 6 / burstiness) / len(gaps)))
    assert ks < KS_BOUND


@pytest.mark.parametrize("seed", SEEDS)
def test_the_test_of_the_distribution_can_fail(seed: int) -> None:
    gaps = _gaps(arrivals(COUNT, 1.0, burstiness=0.8, seed=seed))
    assert _ks(gaps, _erlang(1, 1.0)) > 2 * KS_BOUND


def test_infinite_burstiness_is_constant_and_infinite_rate_is_at_once() -> None:
    assert arrivals(5, 4.0, burstiness=math.inf) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert arrivals(3, math.inf) == [0.0, 0.0, 0.0]
    assert arrivals(1, 7.0) == [0.0]


def test_gaps_scale_with_the_rate_and_depend_on_the_seed() -> None:
    slow, fast = arrivals(50, 1.0, seed=9), arrivals(50, 8.0, seed=9)
    assert [moment * 8 for moment in fast] == pytest.approx(slow)
    assert slow == arrivals(50, 1.0, seed=9)
    assert slow != arrivals(50, 1.0, seed=10)


@pytest.mark.parametrize(("start", "end"), [(1.0, 9.0), (9.0, 1.0), (4.0, 4.0)])
@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_a_ramp_sends_at_the_rate_that_it_has_reached(shape: str, start: float, end: float) -> None:
    """Of a constant process: requests before a moment are the integral of the rate, summed here step by step."""
    ramp = Ramp(start, shape)  # type: ignore[arg-type]
    moments = arrivals(400, end, burstiness=math.inf, ramp=ramp)
    duration = ramp.duration_s(400, end)

    def rate(moment: float) -> float:
        share = min(moment / duration, 1.0)
        return start + (end - start) * share if shape == "linear" else start * (end / start) ** share

    steps = 20_000
    width, done, index = moments[-1] / steps, 0.0, 0
    for step in range(steps):
        while index < len(moments) and moments[index] <= step * width:
            assert done == pytest.approx(index, abs=0.05)
            index += 1
        done += rate((step + 0.5) * width) * width
    assert index >= 398
    assert moments == sorted(moments)
    assert duration == pytest.approx(moments[-1], rel=0.02)


def test_behind_a_ramp_the_rate_stays() -> None:
    ramp = Ramp(1.0)
    end = ramp.duration_s(10, 5.0)
    assert ramp.time_of(10, 10, 5.0) == pytest.approx(end)
    assert ramp.time_of(15, 10, 5.0) == pytest.approx(end + 1)
    assert ramp.time_of(9.999, 10, 5.0) == pytest.approx(end, abs=1e-3)


def test_dialogues_begin_so_that_their_turns_come_at_the_rate() -> None:
    moments = LoadShape(rate=10.0, burstiness=math.inf).arrivals([4, 1, 3, 2], seed=0)
    assert moments == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert LoadShape(concurrency=3).arrivals([1, 1], seed=0) == [None, None]
    assert LoadShape().arrivals([1, 1], seed=0) == [0.0, 0.0]
    shape = LoadShape(rate=2.0, ramp=Ramp(1.0, "exponential"))
    assert shape.record() == {"rate": 2.0, "burstiness": 1.0, "ramp": "exponential from 1/s"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: arrivals(1, 0.0), "rate must be above 0"),
        (lambda: arrivals(1, math.nan), "rate must be above 0"),
        (lambda: arrivals(1, 1.0, burstiness=math.nan), "burstiness must be above 0"),
        (lambda: Ramp(0.0), "a ramp starts"),
        (lambda: Ramp(1.0, "steep"), "linear or exponential"),  # type: ignore[arg-type]
        (lambda: LoadShape(ramp=Ramp(1.0)), "a ramp needs the rate"),
    ],
)
def test_impossible_arrivals_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
