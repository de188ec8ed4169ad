"""How often each guess of a tree stands, by request class and request."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.core.sequence import Sequence

PRIOR_WEIGHT = 20.0  # verifications that what was measured in training stands for
MOST_WEIGHT = 100.0  # of a class; older ones fade
MOST_OWN_WEIGHT = 30.0  # of a request's own


class _Chances:
    """Of guess i, in the order of worth: how often it stood, over how many verifications."""

    __slots__ = ("chances", "measured", "weights")

    def __init__(self, measured: list[float]) -> None:
        self.measured = measured
        self.weights = [PRIOR_WEIGHT] * len(measured)
        self.chances = _falling(measured)

    def add(self, num_guessed: int, stood: set[int], most_weight: float) -> None:
        measured, weights = self.measured, self.weights
        for guess in range(num_guessed):
            weights[guess] = weight = min(weights[guess] + 1.0, most_weight)
            measured[guess] += ((guess in stood) - measured[guess]) / weight
        self.chances = _falling(measured)


def _falling(chances: list[float]) -> list[float]:
    """None above the one before it: guesses are added in their order."""
    least, falling = 1.0, []
    for chance in chances:
        least = min(least, chance)
        falling.append(least)
    return falling


@dataclass(slots=True)
class TreeAcceptance:
    """`expected`: of each guess in the order of worth, the chance that it stands, before any was seen."""

    expected: list[float]
    _classes: dict[bool, _Chances] = field(default_factory=dict)
    _own: dict[Sequence, _Chances] = field(default_factory=dict)

    def learn(self, sequence: Sequence, num_guessed: int, stood: set[int]) -> None:
        """`stood`: the guesses that did, by their number in the order of worth."""
        general = self._of_class(sequence)
        own = self._own.get(sequence)
        if own is None:
            own = self._own[sequence] = _Chances(general.measured.copy())
        own.add(num_guessed, stood, MOST_OWN_WEIGHT)
        general.add(num_guessed, stood, MOST_WEIGHT)

    def observe(self, sequence: Sequence, num_guessed: int, num_accepted: int, kind: int = 0) -> None:
        """Nothing: how many stood does not say which ones (`learn`)."""

    def chances(self, sequence: Sequence, kind: int = 0) -> list[float]:  # noqa: ARG002 -- there is one
        """Of each guess in the order of worth: that it stands. Not to be changed."""
        return (self._own.get(sequence) or self._of_class(sequence)).chances

    def class_rates(self) -> dict[tuple[bool, int], list[float]]:
        """By class (is greedy, 0): of each guess, that it stands."""
        return {(is_greedy, 0): general.chances for is_greedy, general in self._classes.items()}

    def forget(self, sequence: Sequence) -> None:
        self._own.pop(sequence, None)

    def _of_class(self, sequence: Sequence) -> _Chances:
        is_greedy = sequence.params.is_greedy
        general = self._classes.get(is_greedy)
        if general is None:
            general = self._classes[is_greedy] = _Chances(list(self.expected))
        return general
