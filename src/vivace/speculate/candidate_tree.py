"""Which guesses of Medusa heads are worth a row, and in what order: the first n of a tree's paths are its best n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vivace.core.draft_tree import DraftTree
from vivace.models.medusa import TreePath


@dataclass(frozen=True, slots=True)
class CandidateTree:
    """Of each guess, in the order of a step's rows: the head that makes it, its rank among that head's guesses, and
    its number in the order of worth. `tree` is None where they are one line."""

    heads: tuple[int, ...]
    ranks: tuple[int, ...]
    numbers: tuple[int, ...]
    tree: DraftTree | None

    @property
    def num_heads(self) -> int:
        return max(self.heads) + 1

    @property
    def num_ranks(self) -> int:
        return max(self.ranks) + 1


def candidate_tree(paths: Sequence[TreePath]) -> CandidateTree:
    """The line of first guesses comes first, for it needs no place of its own; then the others, the best first."""
    line = [path for path in paths if not any(path)]
    rest = [path for path in paths if any(path)]
    ordered = sorted(line, key=len) + rest
    places = {path: place for place, path in enumerate(ordered)}
    numbers = {path: number for number, path in enumerate(paths)}
    parents = tuple(places[path[:-1]] if len(path) > 1 else -1 for path in ordered)
    return CandidateTree(
        tuple(len(path) - 1 for path in ordered),
        tuple(path[-1] for path in ordered),
        tuple(numbers[path] for path in ordered),
        DraftTree(parents) if rest else None,
    )
