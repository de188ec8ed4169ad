"""How likely the next guess stands, by position, request class and request.

A request's class is whether it draws or takes the likeliest, and the kind of its guess: what proposes tells kinds
apart that stand unequally often, such as long and short repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul

from vivace.core.sequence import Sequence

MOST_WEIGHT = 50.0  # guesses of a class that count: older ones fade
MOST_OWN_WEIGHT = 24.0  # of a request's own
HOPE = 0.8  # before anything was seen
HOPE_WEIGHT = 8.0  # guesses that hope, or what is known of the class, stand for


class _Rates:
    """By position: how often a guess stood if all before it did, over how many; and the chance that all do."""

    __slots__ = ("chances", "rates", "weights")

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates
        self.weights = [HOPE_WEIGHT] * len(rates)
        self.chances = rates  # replaced below
        self._multiply()

    def add(self, num_guessed: int, num_accepted: int, most_weight: float) -> None:
        rates, weights = self.rates, self.weights
        for position in range(min(num_accepted + 1, num_guessed)):
            weight = weights[position]
            if weight < most_weight:
                weights[position] = weight = min(weight + 1.0, most_weight)
            rates[position] += ((position < num_accepted) - rates[position]) / weight
        self._multiply()

    def _multiply(self) -> None:
        self.chances = list(accumulate(self.rates, mul))


@dataclass(slots=True)
class Acceptance:
    """Estimates for at most `most` guesses a step."""

    most: int
    _classes: dict[tuple[bool, int], _Rates] = field(default_factory=dict)
    _own: dict[Sequence, dict[int, _Rates]] = field(default_factory=dict)

    def observe(self, sequence: Sequence, num_guessed: int, num_accepted: int, kind: int = 0) -> None:
        if not num_guessed:
            return
        own = self._own.setdefault(sequence, {})
        general = self._of_class(sequence, kind)
        if kind not in own:
            own[kind] = _Rates(general.rates.copy())
        own[kind].add(num_guessed, num_accepted, MOST_OWN_WEIGHT)
        general.add(num_guessed, num_accepted, MOST_WEIGHT)

    def chances(self, sequence: Sequence, kind: int = 0) -> list[float]:
        """[most]: that guess i and all before it stand. Not to be changed."""
        own = self._own.get(sequence)
        rates = None if own is None else own.get(kind)
        return (rates or self._of_class(sequence, kind)).chances

    def class_rates(self) -> dict[tuple[bool, int], list[float]]:
        """By class (is greedy, kind of guess): [most], that guess i stands if all before it do."""
        return {key: general.rates for key, general in self._classes.items()}

    def forget(self, sequence: Sequence) -> None:
        self._own.pop(sequence, None)

    def _of_class(self, sequence: Sequence, kind: int) -> _Rates:
        key = (sequence.params.is_greedy, kind)
        general = self._classes.get(key)
        if general is None:
            general = self._classes[key] = _Rates([HOPE] * self.most)
        return general
