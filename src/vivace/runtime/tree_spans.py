"""A step with trees of guesses, cut into spans of rows at consecutive positions."""

from __future__ import annotations

from dataclasses import dataclass, field

from vivace.core.step import ScheduledSequence, StepPlan


@dataclass(slots=True)
class TreeSpans:
    """Of each span: its sequence's row in the block tables, first position, tokens, and the position at which its
    slots begin: its own, but for a guess off the chain. Of each row of the step: the row of its parent, or -1."""

    rows: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    @property
    def columns(self) -> tuple[list[int], list[int], list[int], list[int]]:
        return self.rows, self.starts, self.counts, self.slots

    def add(self, row: int, start: int, count: int, slot: int) -> None:
        self.rows.append(row)
        self.starts.append(start)
        self.counts.append(count)
        self.slots.append(slot)


def tree_spans(plan: StepPlan) -> TreeSpans:
    spans, first = TreeSpans(), 0
    for item in plan.scheduled:
        if item.tree is None:
            spans.add(item.sequence.row, item.start, item.num_new, item.start)
            spans.parents.extend([-1] * item.num_new)
        else:
            _add_tree(spans, item, first)
        first += item.num_new
    return spans


def _add_tree(spans: TreeSpans, item: ScheduledSequence, first: int) -> None:
    """`first`: the item's first row in the step."""
    tree = item.tree
    assert tree is not None  # the caller looked
    row, num_known = item.sequence.row, item.num_new - len(item.draft)
    behind = item.start + num_known  # position of the first guess
    num_linear = num_known + tree.num_chain
    spans.add(row, item.start, num_linear, item.start)
    spans.parents.extend([-1] * num_linear)
    for guess in range(tree.num_chain, len(item.draft)):
        spans.add(row, behind + len(tree.paths[guess]) - 1, 1, behind + guess)
        spans.parents.append(first + num_known + tree.parents[guess])
