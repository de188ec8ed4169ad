"""The scale and offset of each block of weights that lose least: a search under a weighted squared error.

Minimised is the sum of cost * (weight - scale * code - offset)^2 over a block, codes being whole numbers in a range.
From several starts the codes are rounded, scale and offset solved for them by least squares, and the best go on
alternating (Lloyd, "Least squares quantization in PCM", 1982). Nothing here can end above its best start.

Shape letters: E elements of a block, S blocks that share a super-block, B super-blocks. E comes first, so that sums
over a block are sums of long rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Starts: the range is cut as if it had so many steps more or less; more of them leave the ends outside, which pays
# where those cost little.
AFFINE_STEPS = tuple(0.7 * step - 0.9 for step in range(6))
SCALE_STEPS = tuple(0.5 * step - 1.5 for step in range(20))
# Then both ends of the best range move by so many codes. Against twice the starts and none of it: 3% less error.
AFFINE_MOVES = (1.0, 0.5)
ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Blocks:
    """Weights and what an error in each of them costs, both [E, S, B]; codes lie in low .. high."""

    weights: Floats
    costs: Floats
    low: int
    high: int
    weighted: Floats = field(init=False)
    cost_sum: Floats = field(init=False)
    weighted_sum: Floats = field(init=False)

    def __post_init__(self) -> None:  # frozen; the sums are needed by every step
        object.__setattr__(self, "weighted", self.weights * self.costs)
        object.__setattr__(self, "cost_sum", self.costs.sum(axis=0))
        object.__setattr__(self, "weighted_sum", self.weighted.sum(axis=0))

    def codes(self, scale: Floats, offset: Floats | None) -> Floats:
        """The nearest codes, [E, S, B] as floats; any where the scale is 0."""
        shifted = self.weights if offset is None else self.weights - offset
        codes = shifted * inverse(scale)
        np.rint(codes, out=codes)
        return np.clip(codes, self.low, self.high, out=codes)

    def error(self, codes: Floats, scale: Floats, offset: Floats | None) -> Floats:
        """The cost of these codes, [S, B]."""
        residual = codes * scale
        np.subtract(self.weights, residual, out=residual)
        if offset is not None:
            residual -= offset
        residual *= residual
        residual *= self.costs
        total: Floats = residual.sum(axis=0)
        return total

    def moments(self, codes: Floats) -> Moments:
        costly = codes * self.costs
        code_sum = costly.sum(axis=0)
        costly *= codes
        return Moments(
            self.cost_sum, code_sum, costly.sum(axis=0), self.weighted_sum, (codes * self.weighted).sum(axis=0)
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """Weighted sums over each block, [S, B]: of 1, code, code^2, weight and code * weight."""

    ones: Floats
    codes: Floats
    squares: Floats
    weights: Floats
    products: Floats

    def scale(self) -> Floats:
        """The best scale without an offset."""
        scale: Floats = self.products * inverse(self.squares)
        return scale

    def affine(self, largest_offset: float | None) -> tuple[Floats, Floats]:
        """The best scale and offset; with `largest_offset` 0 no offset is positive."""
        determinant = self.ones * self.squares - self.codes * self.codes
        scale = (self.ones * self.products - self.weights * self.codes) * inverse(determinant)
        offset = (self.weights - scale * self.codes) * inverse(self.ones)
        if largest_offset is None:
            return scale, offset
        is_free = offset <= largest_offset
        return np.where(is_free, scale, self.scale()), np.where(is_free, offset, np.float32(0))

    def excess(self, scale: Floats, offset: Floats) -> Floats:
        """The cost of these codes at `scale` and `offset`, less what does not depend on the two."""
        linear = scale * self.products + offset * self.weights
        squared = scale * (scale * self.squares + 2 * offset * self.codes) + offset * offset * self.ones
        excess: Floats = squared - 2 * linear
        return excess


def fit_affine(blocks: Blocks, largest_offset: float | None) -> tuple[Floats, Floats]:
    """Scale and offset of every block, [S, B] each."""
    lowest, highest = blocks.weights.min(axis=0), blocks.weights.max(axis=0)
    if largest_offset is not None:
        lowest = np.minimum(lowest, np.float32(largest_offset))
    num_steps = np.float32(blocks.high - blocks.low)
    best = _Best(blocks)

    def offer_solved(scale: Floats, offset: Floats) -> None:
        best.offer(*blocks.moments(blocks.codes(scale, offset)).affine(largest_offset))

    for step in AFFINE_STEPS:
        offer_solved((highest - lowest) / (num_steps + np.float32(step)), lowest)
    for move in AFFINE_MOVES:
        scale, offset = best.scale, best.offset
        for low, high in product((-move, 0.0, move), repeat=2):
            offer_solved(scale * (1 + np.float32(high - low) / num_steps), offset + np.float32(low) * scale)
    for _ in range(ROUNDS):
        offer_solved(best.scale, best.offset)
    return best.scale, best.offset


def fit_scale(blocks: Blocks) -> Floats:
    """Scale of every block, [S, B]; negative where the largest magnitude is positive: `low` reaches further."""
    weights = blocks.weights
    highest, lowest = weights.max(axis=0), weights.min(axis=0)
    largest = np.where(highest > -lowest, highest, lowest)
    best = _Best(blocks)
    for step in SCALE_STEPS:
        best.offer(blocks.moments(blocks.codes(largest / np.float32(blocks.low - step), None)).scale(), None)
    for _ in range(2 * ROUNDS):
        best.offer(blocks.moments(blocks.codes(best.scale, None)).scale(), None)
    return best.scale


class _Best:
    """The best scale and offset of every block so far."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.error = np.full(blocks.weights.shape[1:], np.inf, np.float32)
        self.scale = np.zeros_like(self.error)
        self.offset = np.zeros_like(self.error)

    def offer(self, scale: Floats, offset: Floats | None) -> None:
        error = self.blocks.error(self.blocks.codes(scale, offset), scale, offset)
        is_better = error < self.error
        self.error = np.where(is_better, error, self.error)
        self.scale = np.where(is_better, scale, self.scale)
        if offset is not None:
            self.offset = np.where(is_better, offset, self.offset)


def half(numbers: Floats) -> Floats:
    """As half precision holds them."""
    return numbers.astype(np.float16).astype(np.float32)


def inverse(numbers: Floats) -> Floats:
    """1 / numbers, and 0 where that is not finite."""
    result = np.float32(1) / numbers
    return np.where(np.isfinite(result), result, np.float32(0))
