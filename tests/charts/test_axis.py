"""Axes and numbers: ticks at round values, within the chart, no two alike."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.charts.axis import Axis
from vivace.charts.numbers import compact, percent

AMOUNTS = st.floats(min_value=1e-6, max_value=1e12)


@given(st.lists(AMOUNTS, min_size=1, max_size=5), st.booleans(), st.integers(3, 8))
def test_ticks(values: list[float], log: bool, num_ticks: int) -> None:
    scale = Axis("x", log=log).scale(values, 100, 500, num_ticks=num_ticks)
    assert 2 <= len(scale.ticks) <= 3 * num_ticks
    labels = [label for _, label in scale.ticks]
    assert len(set(labels)) == len(labels)
    for value, _ in scale.ticks:
        assert 100 - 1e-6 <= scale.at(value) <= 500 + 1e-6
    for value in values:
        assert 100 - 1e-6 <= scale.at(value) <= 500 + 1e-6
        assert scale.low <= value * (1 + 1e-9)
        assert value <= scale.high * (1 + 1e-9)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5), st.booleans())
def test_linear_places_keep_their_order(values: list[float], from_zero: bool) -> None:
    scale = Axis("x", from_zero=from_zero).scale(values, 300, 0)  # a value axis: upwards
    places = [scale.at(value) for value in sorted(values)]
    assert all(after <= before + 1e-6 for before, after in pairwise(places))


def test_empty_and_equal_data_have_an_axis() -> None:
    assert len(Axis("x").scale([], 0, 100).ticks) > 1
    assert len(Axis("x", log=True).scale([], 0, 100).ticks) > 1
    assert len(Axis("x", from_zero=False).scale([5.0, 5.0], 0, 100).ticks) > 1
    assert len(Axis("x").scale([math.nan, math.inf, 1.0], 0, 100).ticks) > 1
    assert len(Axis("x").scale([0.0, 5e-324], 0, 100).ticks) > 1
    assert len(Axis("x", from_zero=False).scale([1e9, math.nextafter(1e9, 2e9)], 0, 100).ticks) > 1


def test_round_steps() -> None:
    assert [label for _, label in Axis("x").scale([0, 97], 0, 100).ticks] == ["0", "20", "40", "60", "80", "100"]
    shares = Axis("x", share=True, from_zero=False).scale([0.925, 0.975], 0, 100, num_ticks=3)
    assert [label for _, label in shares.ticks] == ["92%", "94%", "96%", "98%"]
    decades = Axis("x", log=True)
    assert [label for _, label in decades.scale([3, 4000], 0, 100, num_ticks=4).ticks] == ["10", "100", "1,000"]
    assert [label for _, label in decades.scale([12, 19], 0, 100).ticks] == ["10", "15", "20"]


def test_inverse() -> None:
    for axis in (Axis("x"), Axis("x", log=True)):
        scale = axis.scale([1, 1000], 40, 400)
        assert scale.value_at(scale.at(123.0)) == pytest.approx(123.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (999.6, "1,000"), (123456, "123,456"),
        (1234567, "1.23M"), (999_999_999, "1G"), (-2.0, "-2"), (math.nan, "–"), (1e-9, "1.00e-09"),
    ],
)  # fmt: skip
def test_compact(value: float, words: str) -> None:
    assert compact(value) == words


def test_percent() -> None:
    assert (percent(0.925), percent(1.0), percent(math.nan)) == ("92.5%", "100%", "–")
