"""How guesses that are not one line follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class DraftTree:
    """`parents[i]` is the guess that guess i follows, -1 for the sequence's last token; a parent comes before its
    children. The first `num_chain` guesses follow each other: they lie where they belong if they stand."""

    parents: tuple[int, ...]

    @cached_property
    def num_chain(self) -> int:
        for guess, parent in enumerate(self.parents):
            if parent != guess - 1:
                return guess
        return len(self.parents)

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """Of each guess: those that it stands behind, the first one first, and itself."""
        paths: list[tuple[int, ...]] = []
        for guess, parent in enumerate(self.parents):
            paths.append((guess,) if parent < 0 else (*paths[parent], guess))
        return tuple(paths)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of each guess: 1 for those behind the last token."""
        return tuple(map(len, self.paths))

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of the last token, then of each guess."""
        children: list[list[int]] = [[] for _ in range(len(self.parents) + 1)]
        for guess, parent in enumerate(self.parents):
            children[parent + 1].append(guess)
        return tuple(map(tuple, children))
