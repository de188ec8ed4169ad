"""The rule in simulated worlds whose costs and acceptance are known."""

from __future__ import annotations

import random
from array import array

import pytest

from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Sequence
from vivace.speculate.rule import Choice, Kind, LengthRule, StepReport

MOST = 6
ASKING_S = 0.02


def sequences(count: int) -> list[Sequence]:
    params = SamplingParams(temperature=0.0)
    return [Sequence(f"r{number}", 0, array("i", [1, 2]), 2, params, 0, number) for number in range(count)]


class World:
    """Steps of `1 + slope * rows` seconds, guesses of `guess_s` each, a guess stands with chance `rate`."""

    def __init__(self, rate: float, slope: float, guess_s: float, num_sequences: int, seed: int) -> None:
        self.rate, self.slope, self.guess_s = rate, slope, guess_s
        self.sequences = sequences(num_sequences)
        self.random = random.Random(seed)
        self.rule = LengthRule(MOST)
        self.was_guessing = False

    def seconds(self, num_guesses: int) -> float:
        return 1.0 + self.slope * (len(self.sequences) + num_guesses)

    def accepted(self, length: int) -> int:
        count = 0
        while count < length and self.random.random() < self.rate:
            count += 1
        return count

    def step(self, lengths: list[int], kind: Kind) -> tuple[int, float]:
        """Tokens and seconds; the rule is told of it."""
        noise = self.random.uniform(0.97, 1.03)
        guess_s, target_s = self.guess_s * sum(lengths) * noise, self.seconds(sum(lengths)) * noise
        tokens = len(lengths)
        for sequence, length in zip(self.sequences, lengths, strict=True):
            count = self.accepted(length)
            self.rule.acceptance.observe(sequence, length, count)
            tokens += count
        made = [length for length in lengths if length]
        asking_s = 0.0 if kind == "rest" else ASKING_S
        self.rule.observe(
            StepReport(
                len(lengths),
                made,
                tokens,
                target_s,
                guess_s,
                asking_s,
                is_steady=self.was_guessing == bool(made),
                is_trial=kind == "trial",
            )
        )
        self.was_guessing = bool(made)
        return tokens, target_s + guess_s + asking_s

    def speed(self, num_steps: int, length: int | None = None) -> float:
        """Tokens a second over `num_steps`; with `length` every guess has that length and the rule is not asked."""
        tokens, seconds, count = 0, 0.0, len(self.sequences)
        while num_steps > 0:
            choice = Choice([0] * count, "rest", 1.0)
            num_resting = 0
            if length is not None:
                choice.lengths = [length] * count
            elif not (num_resting := self.rule.steps_to_rest(count)):
                choice = self.rule.choose(self.sequences, [MOST] * count)
            for _ in range(num_resting - 1):
                tokens, seconds = tokens + count, seconds + self.seconds(0)
            made, took = self.step(choice.lengths, choice.kind)
            tokens, seconds = tokens + made, seconds + took
            num_steps -= max(1, num_resting)
        return tokens / seconds


@pytest.mark.parametrize("num_sequences", [1, 4, 16])
@pytest.mark.parametrize(
    ("rate", "slope", "guess_s"),
    [(0.9, 0.02, 0.0), (0.8, 0.02, 0.1), (0.5, 0.1, 0.05), (0.3, 0.5, 0.0), (0.05, 0.3, 0.2), (0.0, 0.05, 0.3)],
)
def test_close_to_the_best_fixed_length(rate: float, slope: float, guess_s: float, num_sequences: int) -> None:
    seed = 5
    print(f"seed {seed}")
    world = World(rate, slope, guess_s, num_sequences, seed)
    world.speed(200)  # learn
    speed = world.speed(2000)
    fixed = [World(rate, slope, guess_s, num_sequences, seed).speed(2000, length) for length in range(MOST + 1)]
    assert speed >= 0.98 * fixed[0], "never slower than plain decoding by more than 2%"
    assert speed >= 0.93 * max(fixed)


def test_follows_a_change() -> None:
    """Guesses that stop standing are given up, and taken up again."""
    world = World(0.9, 0.05, 0.1, 1, 3)
    world.speed(200)
    world.rate = 0.0
    world.speed(200)
    plain = 1 / world.seconds(0)
    assert world.speed(500) >= 0.97 * plain
    world.rate = 0.95
    world.speed(2000)
    assert world.speed(500) >= 1.3 * plain


def test_says_why() -> None:
    rule = LengthRule(MOST)
    (one,) = sequences(1)
    assert rule.choose([one], [0]).kind == "none"
    for _ in range(20):
        rule.observe(StepReport(1, [], 1, 1.0, 0.0, 0.0, False))
        rule.observe(StepReport(1, [3], 1, 3.9, 0.0, 0.0, False, is_trial=True))
        rule.acceptance.observe(one, 3, 0)
    choice = rule.choose([one], [MOST])
    assert choice.kind == "plain"
    assert choice.lengths == [0]
    assert choice.gain < 1.0


def test_only_what_is_available() -> None:
    rule = LengthRule(MOST)
    some = sequences(3)
    assert all(length <= most for length, most in zip(rule.choose(some, [0, 2, 6]).lengths, [0, 2, 6], strict=True))
    assert LengthRule(MOST, adaptive=False).choose(some, [0, 2, 6]).lengths == [0, 2, 6]
