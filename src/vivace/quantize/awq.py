"""AWQ: inputs that are large on average get finer steps, by a scale that the layer before takes back.

Lin, Tang, Tang, Yang, Dang and Han, 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration" (arXiv:2306.00978). W x = (W s)(x / s): the scale of input k is mean|x_k| ** alpha, and alpha is
searched for the least error of the stage's outputs (section 3.2); extremes of each group are clipped where that
lessens it (as the authors' code does).
Shape letters: N outputs (rows), K inputs (columns), G groups, R sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from vivace.quantize.decoder_layer import Floats
from vivace.quantize.grid import fit_grid

NUM_ALPHAS = 20  # 0, 0.05, ... 0.95
SHRINKS = tuple(1 - step / 20 for step in range(1, 11))  # 0.95 ... 0.5 of the group's extremes
SMALLEST_MEAN = 1e-4


def search_scale(
    matrices: Iterable[Floats], mean_abs_K: Floats, sample_RK: Floats, rounded: Callable[[Floats], Floats]
) -> Floats:
    """The best scale of each input for all `matrices_NK` that read it; ones where no alpha helps.

    `rounded` gives a matrix as quantisation leaves it. Rows are independent: matrices may come in blocks of them, and
    each is read once, so that they may come from a file.
    """
    scales = [_scale(mean_abs_K, step / NUM_ALPHAS) for step in range(NUM_ALPHAS)]
    errors = np.zeros(NUM_ALPHAS)
    for weights_NK in matrices:
        for index, scale_K in enumerate(scales):
            error_NK = rounded(weights_NK * scale_K) / scale_K - weights_NK
            errors[index] += _output_error(error_NK, sample_RK)
    return scales[int(errors.argmin())]


def _scale(mean_abs_K: Floats, alpha: float) -> Floats:
    """Normalised so that the largest and the smallest lie equally far from 1."""
    scale_K = np.maximum(mean_abs_K, SMALLEST_MEAN) ** np.float32(alpha)
    return np.asarray(scale_K / np.sqrt(scale_K.max() * scale_K.min()), np.float32)


def _output_error(error_NK: Floats, sample_RK: Floats) -> float:
    """Sum of squares over sampled tokens and outputs."""
    output_RN = sample_RK @ error_NK.T
    return float(np.vdot(output_RN, output_RN))


def search_clip(weights_NK: Floats, sample_RK: Floats, bits: int, group_size: int, symmetric: bool) -> Floats:
    """[N, G]: what part of its extremes each row's group should span, for the least error of the group's share of
    the output."""
    groups = [slice(at, at + group_size) for at in range(0, weights_NK.shape[1], group_size)]
    best_NG = np.ones((len(weights_NK), len(groups)), np.float32)
    for group, columns in enumerate(groups):
        weights_Ng, sample_Rg = weights_NK[:, columns], sample_RK[:, columns]
        gram_gg = sample_Rg.T @ sample_Rg
        least_N = np.full(len(weights_NK), np.inf, np.float32)
        for shrink in (1.0, *SHRINKS):
            error_Ng = fit_grid(weights_Ng, bits, symmetric, shrink).nearest(weights_Ng) - weights_Ng
            error_N = np.einsum("ng,ng->n", error_Ng @ gram_gg, error_Ng)
            better_N = error_N < least_N
            least_N[better_N] = error_N[better_N]
            best_NG[better_N, group] = shrink
    return best_NG
