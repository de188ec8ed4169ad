"""What calibration remembers about the inputs of a stage's matrices.

Shape letters: T tokens, K inputs, R sampled tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.quantize.decoder_layer import Floats

SAMPLED_TOKENS = 2048  # whose inputs are kept whole: AWQ's searches weigh errors by them
PANEL = 256  # rows of the Hessian that one product makes


@dataclass(frozen=True, slots=True, eq=False)
class InputStatistics:
    """By input: mean magnitude (AWQ), largest magnitude (SmoothQuant), mean square (importance matrices).

    `sample_RK` holds the inputs of evenly spaced tokens.
    """

    mean_abs_K: Floats
    absmax_K: Floats
    mean_square_K: Floats
    sample_RK: Floats


def observe(inputs: Iterable[tuple[slice, Floats]], num_tokens: int) -> InputStatistics:
    """Statistics of all chunks, which hold `num_tokens` tokens together."""
    stride = max(1, num_tokens // SAMPLED_TOKENS)
    total_abs: NDArray[np.float64] | float = 0.0
    total_square: NDArray[np.float64] | float = 0.0
    largest: Floats | float = 0.0
    sampled = []
    for tokens, inputs_TK in inputs:
        total_abs = total_abs + np.abs(inputs_TK).sum(axis=0, dtype=np.float64)
        total_square = total_square + np.einsum("tk,tk->k", inputs_TK, inputs_TK)
        largest = np.maximum(largest, np.abs(inputs_TK).max(axis=0))
        sampled.append(inputs_TK[-tokens.start % stride :: stride].copy())
    return InputStatistics(
        np.asarray(total_abs / num_tokens, np.float32),
        np.asarray(largest, np.float32),
        np.asarray(total_square / num_tokens, np.float32),
        np.concatenate(sampled),
    )


def accumulate_hessian(inputs: Iterable[tuple[slice, Floats]], hessian_KK: NDArray[np.float64]) -> None:
    """hessian = 2 X X^T over all chunks (X has a column a token), in place; it may be mapped from a file.

    Products are float32, sums over chunks float64; panel by panel, so that no second [K, K] is needed.
    """
    hessian_KK[:] = 0
    width = len(hessian_KK)
    for _, inputs_TK in inputs:
        for start in range(0, width, PANEL):
            rows = slice(start, start + PANEL)
            hessian_KK[rows, start:] += 2 * (inputs_TK[:, rows].T @ inputs_TK[:, start:])
    for start in range(0, width, PANEL):
        rows = slice(start, start + PANEL)
        hessian_KK[start + PANEL :, rows] = hessian_KK[rows, start + PANEL :].T
