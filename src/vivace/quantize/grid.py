"""The levels that a group of weights is rounded to: one scale and one zero point for a row's inputs of a group.

w ~ scale * (code - zero), codes of `bits` bits. Scales are rounded to half precision *before* codes are chosen, as
checkpoints store them, so that what is measured here is what the file says.
Shape letters: N outputs (rows), K inputs (columns), G groups, g the inputs of one group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import UnsupportedError
from vivace.formats.quantized_matrix import QuantizedMatrix

Floats = NDArray[np.floating]
LARGEST_HALF = 65504


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Scale and zero point of each row for one group of inputs."""

    bits: int
    scale_N: NDArray[np.float32]
    zero_N: NDArray[np.uint8]

    def codes(self, weights_Ng: Floats) -> NDArray[np.uint8]:
        """The nearest level of each weight."""
        levels = np.rint(weights_Ng / self.scale_N[:, None]) + self.zero_N[:, None]
        return np.asarray(levels.clip(0, (1 << self.bits) - 1), np.uint8)

    def values(self, codes_Ng: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What codes stand for."""
        levels = codes_Ng.astype(np.int16) - self.zero_N[:, None].astype(np.int16)
        return levels.astype(np.float32) * self.scale_N[:, None]

    def nearest(self, weights_Ng: Floats) -> NDArray[np.float32]:
        """Each weight rounded to its level: `values(codes(weights))`."""
        zero = self.zero_N[:, None].astype(np.float32)
        levels = np.rint(weights_Ng / self.scale_N[:, None])
        rounded: NDArray[np.float32] = levels.clip(-zero, (1 << self.bits) - 1 - zero) * self.scale_N[:, None]
        return rounded


def fit_grid(weights_Ng: Floats, bits: int, symmetric: bool, shrink: float | Floats = 1.0) -> Grid:
    """The grid that spans a group's extremes, times `shrink` (a number or one a row): weights beyond are clipped.
    Numbers must be finite. Raises UnsupportedError where a scale does not fit half precision.

    Symmetric: zero in the middle, 2**(bits - 1); 15 levels of 4 bits span twice the largest magnitude, int8 keeps to
    -127..127. Asymmetric: between min(w, 0) and max(w, 0). A group of zeros gets scale 1.
    """
    if symmetric:
        divisor = 127 if bits == 8 else ((1 << bits) - 1) / 2
        scale = _half(np.abs(weights_Ng).max(axis=1) * shrink / divisor)
        return Grid(bits, scale, np.full(len(scale), 1 << (bits - 1), np.uint8))
    lowest = np.minimum(weights_Ng.min(axis=1), 0) * shrink
    highest = np.maximum(weights_Ng.max(axis=1), 0) * shrink
    num_steps = (1 << bits) - 1
    scale = _half((highest - lowest) / num_steps)
    return Grid(bits, scale, np.rint(-lowest / scale).clip(0, num_steps).astype(np.uint8))


def round_to_nearest(
    weights_NK: Floats, bits: int, group_size: int, symmetric: bool, shrink_NG: Floats | None = None
) -> QuantizedMatrix:
    """Every weight by itself, in runs of `group_size` inputs (the last one may be shorter)."""
    num_inputs = weights_NK.shape[1]
    codes_NK = np.empty(weights_NK.shape, np.uint8)
    grids = []
    for group, start in enumerate(range(0, num_inputs, group_size)):
        columns = slice(start, start + group_size)
        shrink = 1.0 if shrink_NG is None else shrink_NG[:, group]
        grid = fit_grid(weights_NK[:, columns], bits, symmetric, shrink)
        codes_NK[:, columns] = grid.codes(weights_NK[:, columns])
        grids.append(grid)
    return assemble(codes_NK, grids, group_size)


def round_rows_to_int8(weights_NK: Floats) -> QuantizedMatrix:
    """Symmetric int8 with one float32 scale a row, max|w| / 127: the weights of W8A8 and LLM.int8()."""
    scale_N = (np.abs(weights_NK).max(axis=1) / 127).astype(np.float32)
    usable_N = scale_N >= np.finfo(np.float32).tiny
    grid = Grid(8, np.where(usable_N, scale_N, np.float32(1)), np.full(len(scale_N), 128, np.uint8))
    return assemble(grid.codes(weights_NK), [grid], weights_NK.shape[1])


def stacked(parts: list[QuantizedMatrix]) -> QuantizedMatrix:
    """Matrices of the same inputs, one above the other."""
    first = parts[0]
    return QuantizedMatrix(
        first.bits,
        first.group_size,
        np.concatenate([part.codes_NK for part in parts]),
        np.concatenate([part.scales_NG for part in parts]),
        np.concatenate([part.zeros_NG for part in parts]),
        first.group_of_K,
    )


def assemble(
    codes_NK: NDArray[np.uint8],
    grids: list[Grid],
    group_size: int,
    group_of_K: NDArray[np.int32] | None = None,
) -> QuantizedMatrix:
    """The matrix whose group i has `grids[i]`."""
    scales_NG = np.stack([grid.scale_N for grid in grids], axis=1)
    zeros_NG = np.stack([grid.zero_N for grid in grids], axis=1)
    return QuantizedMatrix(grids[0].bits, group_size, codes_NK, scales_NG, zeros_NG, group_of_K)


def _half(scale: Floats) -> NDArray[np.float32]:
    """Rounded to half precision; what would be 0 there is 1, and its codes are all zero."""
    if not scale.max(initial=0) <= LARGEST_HALF:
        raise UnsupportedError(
            f"weights of a group span {scale.max():.3g} a level; files hold scales up to {LARGEST_HALF}: leave this "
            "layer float with --skip-layers, or take w8a8"
        )
    rounded = scale.astype(np.float16).astype(np.float32)
    return np.where(rounded > 0, rounded, np.float32(1))
