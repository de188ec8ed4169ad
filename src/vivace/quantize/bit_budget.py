"""Which matrices get how many bits, under a budget: the most quality for each bit that is spent.

A greedy knapsack: all start at the fewest bits; again and again the step up that lessens the divergence most for each
bit it costs is taken, until none fits. Divergences of single stages are taken to add up, which they do while they are
small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vivace.core.errors import ConfigError

WIDTHS = (4, 8, 16)
SCALE_BITS = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stage of a layer: how many weights it has, and the divergence (nats a token) by bits; 16 bits cost none."""

    num_weights: int
    divergence: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class BitPlan:
    """Bits of each candidate, and the mean over all weights, scales included."""

    bits: tuple[int, ...]
    mean_bits: float


def stored_bits(bits: int, num_inputs: int, group_size: int, symmetric: bool) -> float:
    """Bits of a weight in the file, with its share of the group's scale and zero point."""
    if bits == 16:
        return 16.0
    num_groups = -(-num_inputs // group_size)
    return bits + num_groups * (SCALE_BITS + (0 if symmetric else bits)) / num_inputs


def allocate(candidates: list[Candidate], bits_stored: list[Mapping[int, float]], target_bits: float) -> BitPlan:
    """`bits_stored` gives, for each candidate, what a weight takes in the file at each width.

    Raises ConfigError where even the fewest bits are above the target.
    """
    total = sum(candidate.num_weights for candidate in candidates)
    budget = target_bits * total
    level = [0] * len(candidates)
    spent = sum(c.num_weights * stored[WIDTHS[0]] for c, stored in zip(candidates, bits_stored, strict=True))
    if spent > budget:
        raise ConfigError(
            f"--target-bits {target_bits:g} is less than {spent / total:.3f}, what 4 bits take with their scales: "
            "raise it, or take larger groups"
        )
    while True:
        best: tuple[float, int, float] | None = None
        for index, (candidate, stored) in enumerate(zip(candidates, bits_stored, strict=True)):
            if level[index] + 1 == len(WIDTHS):
                continue
            now, then = WIDTHS[level[index]], WIDTHS[level[index] + 1]
            cost = candidate.num_weights * (stored[then] - stored[now])
            gain = candidate.divergence.get(now, 0.0) - candidate.divergence.get(then, 0.0)
            if gain > 0 and spent + cost <= budget and (best is None or gain / cost > best[0]):
                best = gain / cost, index, cost
        if best is None:
            return BitPlan(tuple(WIDTHS[one] for one in level), spent / total)
        level[best[1]] += 1
        spent += best[2]
