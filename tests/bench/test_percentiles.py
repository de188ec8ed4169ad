"""Percentiles against NumPy's, of values and of values that repeat."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.bench.percentiles import percentiles, repeated_percentiles

SHARES = (0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101, 1000])
def test_they_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    assert percentiles(values, SHARES) == pytest.approx(np.quantile(values, SHARES))
    assert percentiles(iter(values.tolist()), [0.0, 1.0]) == [values.min(), values.max()]


def test_values_that_repeat_are_values_written_out() -> None:
    generator = np.random.default_rng(7)
    ordered, times = np.sort(generator.normal(size=50)), generator.integers(0, 4, size=50)
    written_out = np.repeat(ordered, times)
    assert repeated_percentiles(ordered, times, SHARES) == pytest.approx(np.quantile(written_out, SHARES))


def test_nothing_has_none() -> None:
    assert percentiles([], SHARES) == []
