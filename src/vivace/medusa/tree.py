"""The tree of guesses that a set of heads implies (Cai et al., 2024, appendix on tree construction)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from vivace.models.medusa import TreePath


@dataclass(frozen=True, slots=True)
class Tree:
    """`paths` in the order in which they were worth adding, `values` the probability that each is accepted."""

    paths: tuple[TreePath, ...]
    values: tuple[float, ...]

    def expected_tokens(self, size: int) -> float:
        """Tokens that a step yields with the first `size` paths: the model's own, and the guesses accepted."""
        return 1.0 + sum(self.values[:size])


def build_tree(accuracy_KR: Sequence[Sequence[float]], num_paths: int) -> Tree:
    """Up to `num_paths` paths, greedily by the probability that a path is accepted.

    `accuracy_KR[k][r]` is how often head k's guess of rank r is the true token. Heads are taken to err independently,
    so a path's probability is the product over its guesses; it never exceeds its parent's, so that greedy is optimal.
    """
    heap: list[tuple[float, TreePath]] = []
    orders = [_ranks_by_accuracy(row) for row in accuracy_KR]

    def offer(parent: TreePath, parent_value: float, place: int) -> None:
        """The guess of this place (by accuracy) behind a path."""
        head = len(parent)
        if head < len(orders) and place < len(orders[head]):
            rank = orders[head][place]
            value = parent_value * accuracy_KR[head][rank]
            if value > 0:
                heapq.heappush(heap, (-value, (*parent, rank)))

    offer((), 1.0, 0)
    found: dict[TreePath, float] = {}
    while heap and len(found) < num_paths:
        negative, path = heapq.heappop(heap)
        found[path] = -negative
        parent = path[:-1]
        place = orders[len(parent)].index(path[-1])
        offer(parent, found.get(parent, 1.0), place + 1)
        offer(path, -negative, 0)
    return Tree(tuple(found), tuple(found.values()))


def _ranks_by_accuracy(accuracy_R: Sequence[float]) -> list[int]:
    return sorted(range(len(accuracy_R)), key=lambda rank: (-accuracy_R[rank], rank))
