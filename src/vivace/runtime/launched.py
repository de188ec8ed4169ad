"""A step that was launched and not read: what the next one takes from it on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vivace.core.sequence import UNKNOWN, Sequence
from vivace.core.step import StepPlan
from vivace.ops.backend import Drawn, SampleInputs, StepInputs

if TYPE_CHECKING:
    from vivace.runtime.runner import StepResult


@dataclass(slots=True)
class LaunchedStep:
    """`sequences`: one for each token that is drawn. `known` is the rest of the result, which is there already."""

    sequences: list[Sequence]
    drawn: Drawn | None
    known: StepResult

    def feed(self, plan: StepPlan, inputs: StepInputs) -> None:
        """Let the next step's unknown tokens come from here."""
        places = np.flatnonzero(inputs.token_ids_T == UNKNOWN)
        if not len(places):
            return
        rows = self._rows()
        waiting = [item.sequence for item in plan.scheduled if item.samples and item.sequence.tokens[-1] == UNKNOWN]
        inputs.token_ids_T[places] = 0
        inputs.drawn, inputs.drawn_rows_T = self.drawn, np.full(len(inputs.token_ids_T), -1, np.int32)
        inputs.drawn_rows_T[places] = [rows[sequence] for sequence in waiting]

    def feed_history(self, sequences: list[Sequence], inputs: SampleInputs) -> None:
        """Let the penalties of the next step's rows count the unknown tokens."""
        if not len(inputs.history_tokens) or self.drawn is None:
            return
        rows = self._rows()
        inputs.drawn = self.drawn
        inputs.drawn_rows_S = np.array(
            [rows[one] if one.tokens[-1] == UNKNOWN and one.params.has_penalties else -1 for one in sequences],
            np.int32,
        )

    def _rows(self) -> dict[Sequence, int]:
        return {sequence: row for row, sequence in enumerate(self.sequences)}
