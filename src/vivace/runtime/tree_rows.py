"""The rows of a step with trees of guesses, one by one: such a step has few."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.core.draft_tree import DraftTree
from vivace.core.step import ScheduledSequence, StepPlan


@dataclass(slots=True)
class TreeRows:
    """Columns of `StepInputs`; `tables`: the row in the block tables of each span."""

    block_size: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    query_starts: list[int] = field(default_factory=lambda: [0])
    context_lens: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)

    def add_line(self, item: ScheduledSequence, num_rows: int) -> None:
        """The first rows of an item, each behind the one before it."""
        sequence, start = item.sequence, item.start
        self.positions.extend(range(start, start + num_rows))
        self.slots.extend([self._slot(sequence.block_ids, place) for place in range(start, start + num_rows)])
        self.parents.extend([-1] * num_rows)
        self._end_span(sequence.row, start + num_rows)

    def add_branches(self, item: ScheduledSequence, tree: DraftTree) -> None:
        """Guesses off the chain: spans of one row, in slots behind the chain's."""
        sequence, num_guesses = item.sequence, len(item.draft)
        behind = item.start + item.num_new - num_guesses  # position of the first guess
        first = len(self.positions) - tree.num_chain  # row of the first guess
        for guess in range(tree.num_chain, num_guesses):
            position = behind + tree.depths[guess] - 1
            self.positions.append(position)
            self.slots.append(self._slot(sequence.block_ids, behind + guess))
            self.parents.append(first + tree.parents[guess])
            self._end_span(sequence.row, position + 1)

    def _slot(self, blocks: list[int], place: int) -> int:
        return blocks[place // self.block_size] * self.block_size + place % self.block_size

    def _end_span(self, table: int, context_len: int) -> None:
        self.query_starts.append(len(self.positions))
        self.context_lens.append(context_len)
        self.tables.append(table)


def tree_rows(plan: StepPlan, block_size: int) -> TreeRows:
    rows = TreeRows(block_size)
    for item in plan.scheduled:
        num_guesses = len(item.draft)
        rows.tokens.extend(item.sequence.tokens[item.start : item.start + item.num_new - num_guesses])
        rows.tokens.extend(item.draft)
        if item.tree is None:
            rows.add_line(item, item.num_new)
        else:
            rows.add_line(item, item.num_new - num_guesses + item.tree.num_chain)
            rows.add_branches(item, item.tree)
    return rows
