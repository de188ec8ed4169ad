"""How many tokens to guess: as many as bring the most tokens a second, none where none pay.

Guesses of all sequences are taken in the order of the chance that they bring a token; the number of them that
maximises expected tokens / expected seconds wins. Both come from measurements: step time by rows, seconds of a guess,
acceptance by position (Leviathan et al., 2023, section 3.5, with measured instead of assumed costs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vivace.core.sequence import Sequence
from vivace.speculate.acceptance import Acceptance
from vivace.speculate.step_cost import StepCost

MARGIN = 1.02  # guessing must promise so much more than a plain step: estimates err
REFRESH_STEPS = 50  # a plain step now and then keeps its measured time true; a step with guesses where none pay
MAX_REFRESH_STEPS = 1600  # after attempts that did not pay, each twice as far from the last


Kind = Literal["guess", "plain", "trial", "none"]  # trial: against what pays, to measure; none: nothing to guess


@dataclass(slots=True)
class Choice:
    """Guesses for each sequence, and why. `gain`: tokens a second that are expected over those of a plain step."""

    lengths: list[int]
    kind: Kind
    gain: float


class LengthRule:
    """Decides from what it is told of earlier steps. Clocks and models are somebody else's."""

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self.most = most
        self.adaptive = adaptive
        self.target = StepCost()
        self.guessing = StepCost()
        self.acceptance = Acceptance(most)
        self._steps_since_other = 0  # steps that went the same way: with guesses, or without
        self._was_guessing = False
        self._patience = REFRESH_STEPS

    def observe(self, num_rows: int, num_guesses: int, target_s: float, guessing_s: float) -> None:
        """A step of decode rows alone took `target_s`, of which the guesses before it took `guessing_s` more."""
        self.target.observe(num_rows, target_s)
        if num_guesses:
            self.guessing.observe(num_guesses, guessing_s)

    def choose(self, sequences: list[Sequence], available: list[int], num_steps: int = 1) -> Choice:
        """How many of the `available` guesses to make for each sequence of the next step.

        `num_steps` have gone by since it was last asked.
        """
        if not any(available):
            return Choice([0] * len(sequences), "none", 1.0)
        if not self.adaptive:
            return Choice(list(available), "guess", 1.0)
        lengths, gain = self._best(sequences, available)
        return self._refreshed(lengths, gain, available, num_steps)

    def _best(self, sequences: list[Sequence], available: list[int]) -> tuple[list[int], float]:
        """The best lengths if any are made, and their tokens a second over those of a plain step."""
        chances_BK = np.cumprod([self.acceptance.rates(sequence) for sequence in sequences], axis=1)
        chances_BK[np.arange(self.most) >= np.asarray(available)[:, None]] = 0.0
        order = np.argsort(-chances_BK, axis=None, kind="stable")
        order = order[: int(np.count_nonzero(chances_BK))]
        tokens = len(sequences) + np.cumsum(chances_BK.flat[order])
        counts = np.arange(1, len(order) + 1)
        seconds = self.target.seconds(len(sequences) + counts) + self._guessing_s(counts)
        plain = len(sequences) / float(self.target.seconds(len(sequences)))
        best = int(np.argmax(tokens / seconds))
        lengths = np.bincount(order[: best + 1] // self.most, minlength=len(sequences))
        return lengths.tolist(), float(tokens[best] / seconds[best]) / plain

    def _guessing_s(self, counts: NDArray[np.int_]) -> NDArray[np.float64]:
        measured = self.guessing.seconds(counts)
        return measured if self.guessing.is_known else np.zeros(len(counts))

    def _refreshed(self, lengths: list[int], gain: float, available: list[int], num_steps: int) -> Choice:
        """What pays, and now and then the other way, to know whether it still does."""
        pays = gain > MARGIN
        self._steps_since_other = self._steps_since_other + num_steps if pays == self._was_guessing else 0
        self._was_guessing = pays
        if self._steps_since_other >= self._patience:
            self._steps_since_other = 0
            self._patience = REFRESH_STEPS if pays else min(2 * self._patience, MAX_REFRESH_STEPS)
            if pays:
                return Choice([0] * len(lengths), "trial", gain)
            return Choice([min(1, count) for count in available], "trial", gain)
        if pays:
            self._patience = REFRESH_STEPS
            return Choice(lengths, "guess", gain)
        return Choice([0] * len(lengths), "plain", gain)
