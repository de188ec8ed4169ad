"""What no other point beats: fronts in any number of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Nowhere worse and somewhere better; larger is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(items: Iterable[T], merits: Callable[[T], Sequence[float]]) -> list[T]:
    """The items that none dominates, in their order. Of equals all stay."""
    points = [(item, merits(item)) for item in items]
    return [item for item, own in points if not any(dominates(other, own) for _, other in points)]
