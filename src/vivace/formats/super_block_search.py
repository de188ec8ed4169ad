"""Scales of k-quants: blocks share half-precision units that their whole-numbered scales and minima multiply.

A unit is chosen among many by the blocks' moments alone. Then, in turns, every block tries the neighbours of its
whole numbers with fresh codes, and the units are solved for by least squares. A turn that loses is not taken. Shape
letters as in scale_search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vivace.formats.scale_search import Blocks, Floats, Moments, fit_affine, fit_scale, half, inverse

SCALE_LIMIT = 63  # of q4_k's and q5_k's scales and minima, six bits each
LOWEST_SCALE, HIGHEST_SCALE = -128, 127  # of q6_k's
_NUM_UNITS = 24  # tried, from the largest scale at its limit down to where a third of the range is given away
_TURNS = 3


@dataclass(frozen=True, slots=True)
class AffineSuperBlocks:
    """Weight = unit * scale * code - minimum_unit * minimum.

    Units [B] are half precision, scales and minima [S, B] lie in 0 .. SCALE_LIMIT; codes [E, S, B], errors [B].
    """

    unit: Floats
    minimum_unit: Floats
    scales: Floats
    minima: Floats
    codes: Floats
    error: Floats

    def better_of(self, other: AffineSuperBlocks) -> AffineSuperBlocks:
        """For each super-block, the one of lower error."""
        take = other.error < self.error
        return AffineSuperBlocks(
            unit=np.where(take, other.unit, self.unit),
            minimum_unit=np.where(take, other.minimum_unit, self.minimum_unit),
            scales=np.where(take, other.scales, self.scales),
            minima=np.where(take, other.minima, self.minima),
            codes=np.where(take, other.codes, self.codes),
            error=np.where(take, other.error, self.error),
        )


@dataclass(frozen=True, slots=True)
class ScaledSuperBlocks:
    """Weight = unit * scale * code; scales lie in LOWEST_SCALE .. HIGHEST_SCALE."""

    unit: Floats
    scales: Floats
    codes: Floats
    error: Floats

    def better_of(self, other: ScaledSuperBlocks) -> ScaledSuperBlocks:
        """For each super-block, the one of lower error."""
        take = other.error < self.error
        return ScaledSuperBlocks(
            unit=np.where(take, other.unit, self.unit),
            scales=np.where(take, other.scales, self.scales),
            codes=np.where(take, other.codes, self.codes),
            error=np.where(take, other.error, self.error),
        )


def fit_affine_super_blocks(blocks: Blocks) -> AffineSuperBlocks:
    """q4_k and q5_k: a scale and a minimum, never negative, for each block."""
    scale, offset = fit_affine(blocks, largest_offset=0.0)
    moments = blocks.moments(blocks.codes(scale, offset))
    unit = _affine_unit(moments, scale)
    scales = _multiples(scale, unit, 0, SCALE_LIMIT)
    minimum = -_free_offset(moments, unit * scales)
    minimum_unit = _minimum_unit(moments, unit * scales, minimum)
    minima = _multiples(minimum, minimum_unit, 0, SCALE_LIMIT)
    best = _affine_neighbours(blocks, unit, minimum_unit, scales, minima)
    for _ in range(_TURNS):
        units = _affine_units(blocks.moments(best.codes), best.scales, best.minima)
        best = best.better_of(_affine_neighbours(blocks, *units, best.scales, best.minima))
    return best


def fit_scaled_super_blocks(blocks: Blocks) -> ScaledSuperBlocks:
    """q6_k: a signed scale for each block."""
    scale = fit_scale(blocks)
    moments = blocks.moments(blocks.codes(scale, None))
    unit = _best_unit(
        scale,
        range(LOWEST_SCALE, LOWEST_SCALE + _NUM_UNITS),
        (LOWEST_SCALE, HIGHEST_SCALE),
        lambda rounded: rounded * (rounded * moments.squares - 2 * moments.products),
    )
    best = _scaled_neighbours(blocks, unit, _multiples(scale, unit, LOWEST_SCALE, HIGHEST_SCALE))
    for _ in range(_TURNS):
        moments = blocks.moments(best.codes)
        squares = (best.scales * best.scales * moments.squares).sum(axis=0)
        unit = half((best.scales * moments.products).sum(axis=0) * inverse(squares))
        best = best.better_of(_scaled_neighbours(blocks, unit, best.scales))
    return best


def _affine_unit(moments: Moments, scale: Floats) -> Floats:
    """The unit of the scales, offsets being free."""

    def excess(rounded: Floats) -> Floats:
        return moments.excess(rounded, _free_offset(moments, rounded))

    return _best_unit(scale, range(SCALE_LIMIT, SCALE_LIMIT - _NUM_UNITS, -1), (0, SCALE_LIMIT), excess)


def _minimum_unit(moments: Moments, scale: Floats, minimum: Floats) -> Floats:
    """The unit of the minima, scales being settled."""
    divisors = range(SCALE_LIMIT, SCALE_LIMIT - _NUM_UNITS, -1)
    return _best_unit(minimum, divisors, (0, SCALE_LIMIT), lambda rounded: moments.excess(scale, -rounded))


def _best_unit(
    numbers: Floats, divisors: Sequence[int], limits: tuple[int, int], error: Callable[[Floats], Floats]
) -> Floats:
    """Of units that make the largest of `numbers` one of `divisors`, the one whose multiples cost least, [B]."""
    top, bottom = numbers.max(axis=0), numbers.min(axis=0)
    largest = np.where(top >= -bottom, top, bottom)
    best_unit: Floats = np.zeros_like(top)
    best_error = np.full_like(top, np.inf)
    for divisor in divisors:
        unit = half(largest / np.float32(divisor))
        total = error(unit * _multiples(numbers, unit, *limits)).sum(axis=0)
        best_unit = np.where(total < best_error, unit, best_unit)
        best_error = np.minimum(total, best_error)
    return best_unit


def _multiples(numbers: Floats, unit: Floats, lowest: int, highest: int) -> Floats:
    multiples: Floats = np.clip(np.rint(numbers * inverse(unit)), lowest, highest)
    return multiples


def _free_offset(moments: Moments, scale: Floats) -> Floats:
    offset: Floats = (moments.weights - scale * moments.codes) * inverse(moments.ones)
    return np.minimum(offset, np.float32(0))


def _affine_neighbours(
    blocks: Blocks, unit: Floats, minimum_unit: Floats, scales: Floats, minima: Floats
) -> AffineSuperBlocks:
    """Every block with the best of the nine pairs around its own."""
    best_error = np.full_like(scales, np.inf)
    best_scales, best_minima = scales, minima
    for scale_step in (0, -1, 1):
        near_scales = np.clip(scales + np.float32(scale_step), 0, SCALE_LIMIT)
        for minimum_step in (0, -1, 1):
            near_minima = np.clip(minima + np.float32(minimum_step), 0, SCALE_LIMIT)
            scale, offset = unit * near_scales, -minimum_unit * near_minima
            error = blocks.error(blocks.codes(scale, offset), scale, offset)
            is_better = error < best_error
            best_error = np.where(is_better, error, best_error)
            best_scales = np.where(is_better, near_scales, best_scales)
            best_minima = np.where(is_better, near_minima, best_minima)
    codes = blocks.codes(unit * best_scales, -minimum_unit * best_minima)
    return AffineSuperBlocks(unit, minimum_unit, best_scales, best_minima, codes, best_error.sum(axis=0))


def _scaled_neighbours(blocks: Blocks, unit: Floats, scales: Floats) -> ScaledSuperBlocks:
    """Every block with the best of the three scales around its own."""
    best_error, best_scales = np.full_like(scales, np.inf), scales
    for step in (0, -1, 1):
        near = np.clip(scales + np.float32(step), LOWEST_SCALE, HIGHEST_SCALE)
        error = blocks.error(blocks.codes(unit * near, None), unit * near, None)
        is_better = error < best_error
        best_error = np.where(is_better, error, best_error)
        best_scales = np.where(is_better, near, best_scales)
    codes = blocks.codes(unit * best_scales, None)
    return ScaledSuperBlocks(unit, best_scales, codes, best_error.sum(axis=0))


def _affine_units(moments: Moments, scales: Floats, minima: Floats) -> tuple[Floats, Floats]:
    """Both units by least squares, all else being settled; the scales' alone where the other would be negative."""
    squares = (scales * scales * moments.squares).sum(axis=0)
    mixed = -(scales * minima * moments.codes).sum(axis=0)
    ones = (minima * minima * moments.ones).sum(axis=0)
    products = (scales * moments.products).sum(axis=0)
    weights = -(minima * moments.weights).sum(axis=0)
    determinant = inverse(squares * ones - mixed * mixed)
    unit = (ones * products - mixed * weights) * determinant
    minimum_unit = (squares * weights - mixed * products) * determinant
    is_alone = (determinant == 0) | (minimum_unit < 0)
    alone = products * inverse(squares)
    return half(np.where(is_alone, alone, unit)), half(np.where(is_alone, np.float32(0), minimum_unit))
