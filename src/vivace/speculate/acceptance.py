"""How likely the next guess stands, by position, request class and request."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vivace.core.sequence import Sequence

FORGETTING = 0.98  # of what was seen, a verification: about the last 50 count
OWN_FORGETTING = 0.9  # of a request's own
HOPE = 0.8  # before anything was seen
HOPE_WEIGHT = 4.0  # guesses
CLASS_WEIGHT = 4.0  # of its class's rate, in the estimate of one request


@dataclass(slots=True)
class _Tally:
    """Guesses by position: how many were judged (all before them stood), and how many of those stood."""

    judged: NDArray[np.float64]
    stood: NDArray[np.float64]

    def add(self, num_guessed: int, num_accepted: int, forgetting: float) -> None:
        self.judged *= forgetting
        self.stood *= forgetting
        self.judged[: min(num_accepted + 1, num_guessed)] += 1.0
        self.stood[:num_accepted] += 1.0


@dataclass(slots=True)
class Acceptance:
    """Estimates for at most `most` guesses a step. A request's class is whether it draws or takes the likeliest."""

    most: int
    _classes: dict[bool, _Tally] = field(default_factory=dict)
    _own: dict[Sequence, _Tally] = field(default_factory=dict)

    def observe(self, sequence: Sequence, num_guessed: int, num_accepted: int) -> None:
        if not num_guessed:
            return
        self._of_class(sequence).add(num_guessed, num_accepted, FORGETTING)
        own = self._own.setdefault(sequence, self._empty())
        own.add(num_guessed, num_accepted, OWN_FORGETTING)

    def rates(self, sequence: Sequence) -> NDArray[np.float64]:
        """[most]: that guess i stands if all before it do."""
        general = self._of_class(sequence)
        rates = (general.stood + HOPE * HOPE_WEIGHT) / (general.judged + HOPE_WEIGHT)
        own = self._own.get(sequence)
        if own is None:
            return rates
        return (own.stood + rates * CLASS_WEIGHT) / (own.judged + CLASS_WEIGHT)

    def forget(self, sequence: Sequence) -> None:
        self._own.pop(sequence, None)

    def _of_class(self, sequence: Sequence) -> _Tally:
        return self._classes.setdefault(sequence.params.is_greedy, self._empty())

    def _empty(self) -> _Tally:
        return _Tally(np.zeros(self.most), np.zeros(self.most))
