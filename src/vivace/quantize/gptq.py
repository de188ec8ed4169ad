"""GPTQ: weights are rounded one input at a time, and the inputs still to come make up for each error.

Frantar, Ashkboos, Hoefler and Alistarh, 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (arXiv:2210.17323), algorithm 1, with activation order, groups and dead columns as in the authors' code.
Shape letters: N outputs (rows), K inputs (columns).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.quantize.grid import Floats, Grid, assemble, fit_grid
from vivace.quantize.inverse_cholesky import inverse_cholesky

LAZY_BLOCK = 128  # inputs whose updates of later blocks are put together into one product (section 3.3, step 2)

Matrix = NDArray[np.float64]


def damp(hessian_KK: Matrix, damping: float) -> NDArray[np.bool_]:
    """In place: adds `damping` times the mean of the diagonal to it. Returns which inputs are dead (never other than
    0), whose diagonal becomes 1: nothing is known about them, and nothing depends on them."""
    diagonal = np.einsum("ii->i", hessian_KK)
    dead_K: NDArray[np.bool_] = diagonal == 0
    diagonal[dead_K] = 1
    diagonal += damping * diagonal.mean()
    return dead_K


def activation_order(diagonal_K: Matrix) -> NDArray[np.intp]:
    """Inputs by falling diagonal of the Hessian: those that matter most are rounded while most others can help."""
    return np.argsort(-diagonal_K, kind="stable")


class InputHessian:
    """The factor of H^-1 that all matrices reading the same inputs (q, k and v) share.

    `hessian_KK` is 2 X X^T, or any multiple of it; it is overwritten. May be memory-mapped.
    """

    def __init__(self, hessian_KK: Matrix, damping: float, act_order: bool) -> None:
        order = activation_order(np.diagonal(hessian_KK)) if act_order else None
        self.dead_K = damp(hessian_KK, damping)
        self.order = order
        if order is not None:
            _permute(hessian_KK, order)
        self.factor_KK = inverse_cholesky(hessian_KK)


def gptq(weights_NK: Floats, hessian: InputHessian, bits: int, group_size: int, symmetric: bool) -> QuantizedMatrix:
    """Rounds `weights_NK`. With activation order, groups are runs of the *ordered* inputs (`desc_act`)."""
    order, num_inputs = hessian.order, weights_NK.shape[1]
    weights_KN = np.where(hessian.dead_K, 0, weights_NK).T.astype(weights_NK.dtype, order="C")
    if order is not None:
        weights_KN = weights_KN[order]
    codes_KN, grids = _round_in_order(weights_KN, hessian.factor_KK, bits, group_size, symmetric)
    if order is None:
        return assemble(np.ascontiguousarray(codes_KN.T), grids, group_size)
    codes_NK = np.empty(weights_NK.shape, np.uint8)
    codes_NK[:, order] = codes_KN.T
    group_of_K = np.empty(num_inputs, np.int32)
    group_of_K[order] = np.arange(num_inputs, dtype=np.int32) // group_size
    return assemble(codes_NK, grids, group_size, group_of_K)


def _round_in_order(
    weights_KN: Floats, factor_KK: Matrix, bits: int, group_size: int, symmetric: bool
) -> tuple[NDArray[np.uint8], list[Grid]]:
    """Algorithm 1. Overwrites `weights_KN`, one row an input, so that the inner loop reads and writes whole rows."""
    num_inputs = len(weights_KN)
    codes_KN = np.empty(weights_KN.shape, np.uint8)
    grids: list[Grid] = []
    block_size = _block_size(group_size, num_inputs)
    for start in range(0, num_inputs, block_size):
        stop = min(start + block_size, num_inputs)
        factor = factor_KK[start:stop, start:].astype(weights_KN.dtype)
        errors = np.empty((stop - start, weights_KN.shape[1]), weights_KN.dtype)
        for i in range(start, stop):
            if i % group_size == 0:  # a block's start, where every earlier error has been made up for
                grids.append(fit_grid(weights_KN[i : i + group_size].T, bits, symmetric))
            row, at = weights_KN[i], i - start
            codes_KN[i] = grids[-1].codes(row[:, None])[:, 0]
            rounded = grids[-1].values(codes_KN[i][:, None])[:, 0]
            errors[at] = (row - rounded) / factor[at, at]
            weights_KN[i + 1 : stop] -= np.outer(factor[at, at + 1 : stop - start], errors[at])
        weights_KN[stop:] -= factor[:, stop - start :].T @ errors
    return codes_KN, grids


def _block_size(group_size: int, num_inputs: int) -> int:
    """Such that groups begin where blocks do."""
    return LAZY_BLOCK if group_size >= num_inputs else math.gcd(group_size, LAZY_BLOCK)


def _permute(matrix_KK: Matrix, order: NDArray[np.intp]) -> None:
    """Rows and columns by `order`, in place: cycle by cycle, with one row beside the matrix."""
    for row in matrix_KK:
        row[:] = row[order]
    moved = np.zeros(len(order), np.bool_)
    for start in range(len(order)):
        kept, at = matrix_KK[start].copy(), start
        while not moved[at]:
            moved[at] = True
            source = int(order[at])
            matrix_KK[at] = kept if source == start else matrix_KK[source]
            at = source
