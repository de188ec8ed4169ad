"""Steps of requests that want hidden states instead of tokens.

Shape letters: S rows wanted, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.sequence import Sequence
from vivace.core.step import ScheduledSequence, StepPlan
from vivace.ops.backend import Backend, Executable, Float32Array
from vivace.runtime.batch import BatchBuilder


@dataclass(slots=True)
class HiddenRows:
    """Hidden states of `sequence` after the final norm, from position `start`; a view, valid until the next step."""

    sequence: Sequence
    start: int
    rows_SD: Float32Array


def split_pooling(plan: StepPlan) -> tuple[StepPlan, StepPlan]:
    """The part of a step that generates and the part that pools; either may be empty.

    Both carry all table resets: a part that does not run must not lose those of the other.
    """
    pooling = [item for item in plan.scheduled if item.sequence.pooling is not None]
    if not pooling:
        return plan, StepPlan()
    generating = [item for item in plan.scheduled if item.sequence.pooling is None]
    return _part(plan, generating), _part(plan, pooling)


def _part(plan: StepPlan, scheduled: list[ScheduledSequence]) -> StepPlan:
    return StepPlan(scheduled, table_resets=plan.table_resets, num_tokens=sum(item.num_new for item in scheduled))


class PoolingRunner:
    """Runs pooling parts through a program that ends with the final norm, over the same KV cache as generation.

    Compiling such a program takes 3.5 ms for a model of 1B and no memory: pages of its activations (56 MiB at 512
    tokens) are taken when the first request for an embedding runs.
    """

    def __init__(self, backend: Backend, executable: Executable, batch: BatchBuilder) -> None:
        self._backend = backend
        self._executable = executable
        self._batch = batch

    def run(self, plan: StepPlan) -> list[HiddenRows]:
        """Every row of a chunk for mean pooling; for last-token pooling the prompt's last row, once it is reached."""
        rows: list[int] = []
        wanted: list[tuple[Sequence, int, int]] = []
        first = 0
        for item in plan.scheduled:
            skipped = _num_skipped(item)
            if skipped < item.num_new:
                rows.extend(range(first + skipped, first + item.num_new))
                wanted.append((item.sequence, item.start + skipped, item.num_new - skipped))
            first += item.num_new
        hidden_SD = self._backend.on_host(self._executable.run(self._batch.build(plan, rows)))
        results, row = [], 0
        for sequence, start, count in wanted:
            results.append(HiddenRows(sequence, start, hidden_SD[row : row + count]))
            row += count
        return results


def _num_skipped(item: ScheduledSequence) -> int:
    """Leading rows of the chunk that the pooling does not need."""
    if item.sequence.pooling == "mean":
        return 0
    is_last = item.start + item.num_new == item.sequence.num_prompt
    return item.num_new - 1 if is_last else item.num_new
