"""How often guesses must stand to pay, from what steps cost (Leviathan et al., 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

PRECISION = 1e-4


def tokens_per_step(rate: float, num_guesses: int) -> float:
    """Expected of a sequence whose every guess stands with chance `rate` if all before it do."""
    return sum(rate**place for place in range(num_guesses + 1))


def break_even(step_s: Sequence[float], num_guesses: int, guess_s: float = 0.0) -> float | None:
    """The chance with which `num_guesses` a sequence and step cost what they bring; None where even 1 is too little.

    `step_s[k]`: seconds of a step with k guesses a sequence; `guess_s`: of a pass that makes one for each sequence.
    """
    wanted = (step_s[num_guesses] + num_guesses * guess_s) / step_s[0]
    if wanted > num_guesses + 1:
        return None
    low, high = 0.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step(middle, num_guesses) < wanted else (low, middle)
    return high


def expected_speedup(step_s: Sequence[float], rate: float, guess_s: float = 0.0) -> tuple[float, int]:
    """The most that any number of guesses brings over none, and that number."""
    speeds = [
        (tokens_per_step(rate, count) * step_s[0] / (seconds + count * guess_s), count)
        for count, seconds in enumerate(step_s)
    ]
    return max(speeds)
