"""Counters of an engine since it started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vivace.core.step import StepPlan


@dataclass(slots=True)
class EngineStats:
    """Plain counters; rates and histograms are the reader's business."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_computed_tokens: int = 0  # rows that went through the model, recomputation included
    num_decode_rows: int = 0  # of them, one for each sequence past its prompt; guesses and prompts are the others
    num_preemptions: int = 0
    finished: Counter[str] = field(default_factory=Counter)  # by finish reason

    def count_step(self, plan: StepPlan) -> None:
        self.num_steps += 1
        self.num_computed_tokens += plan.num_tokens
        self.num_decode_rows += len(plan.scheduled) - plan.num_chunks
        self.num_preemptions += len(plan.preempted)

    def count_finished(self, reason: str) -> None:
        self.finished[reason] += 1
