"""Break-even against simulated drafts."""

from __future__ import annotations

import random

import pytest

from vivace.bench.break_even import break_even, expected_speedup, tokens_per_step


def simulated_speed(rate: float, count: int, step_s: list[float], guess_s: float, generator: random.Random) -> float:
    tokens = 0
    for _ in range(40_000):
        stood = 0
        while stood < count and generator.random() < rate:
            stood += 1
        tokens += 1 + stood
    return tokens / 40_000 / (step_s[count] + count * guess_s)


@pytest.mark.parametrize(("count", "guess_s"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.1)])
def test_at_break_even_nothing_is_won(count: int, guess_s: float) -> None:
    seed = 3
    print(f"seed {seed}")
    generator = random.Random(seed)
    step_s = [1.0 + 0.1 * number for number in range(6)]
    rate = break_even(step_s, count, guess_s)
    assert rate is not None
    assert simulated_speed(rate, count, step_s, guess_s, generator) == pytest.approx(1.0, rel=0.02)
    assert simulated_speed(min(1.0, rate + 0.1), count, step_s, guess_s, generator) > 1.0


def test_nothing_helps_where_guesses_cost_too_much() -> None:
    assert break_even([1.0, 2.1], 1) is None
    assert break_even([1.0, 1.0], 1) == pytest.approx(0.0, abs=1e-3)


def test_the_best_number_of_guesses() -> None:
    step_s = [1.0, 1.1, 1.2, 1.3]
    assert expected_speedup(step_s, 0.0) == (1.0, 0)
    assert expected_speedup(step_s, 1.0) == (pytest.approx(4 / 1.3), 3)
    assert tokens_per_step(0.5, 2) == 1.75
