"""Seconds of a scheduler's plan: the step-time model for the real rows of a step, with the draft's own steps."""

from __future__ import annotations

from vivace.core.step import StepPlan
from vivace.plan.deployment import Deployment
from vivace.plan.step_time import StepModel, StepTime


class StepCost:
    """One deployment. A call takes some 10 microseconds and 0.2 more a row."""

    def __init__(self, model: StepModel, deployment: Deployment, draft: StepModel | None = None) -> None:
        self._model = model
        self._draft = draft
        self._num_guesses = deployment.rows_a_sequence - 1

    @property
    def wake_s(self) -> float:
        """By how much the first steps after a pause take longer."""
        return self._model.wake_s

    def __call__(self, plan: StepPlan) -> StepTime:
        """Of a plan with at least one row."""
        num_decoding = rows = context = num_drawn = 0
        chunks: list[tuple[float, float]] = []
        for item in plan.scheduled:
            if item.start >= item.sequence.num_prompt and item.num_new == 1 + len(item.draft):
                num_decoding += 1
                rows += item.num_new
                context += item.start
            else:
                chunks.append((item.start, item.num_new))
                num_drawn += item.samples
        each = rows / num_decoding if num_decoding else 1.0
        mean_context = context / num_decoding if num_decoding else 0.0
        step = self._model.mixed(num_decoding, mean_context, each, chunks, num_drawn)
        if plan.table_resets:
            num_tokens = sum(sequence.num_prompt for sequence in plan.table_resets)
            step = step.delayed(self._model.admission_s(len(plan.table_resets), num_tokens))
        if self._draft is None or rows == num_decoding:
            return step
        guess = self._draft.step(num_decoding, mean_context)
        return step.followed_by(guess, self._num_guesses)
