"""The Cholesky factor of an inverse, in place and block by block, so that a Hessian on disk never has to fit.

GPTQ wants the upper triangle U with U^T U = H^-1. With H = R R^T for an upper R (Cholesky from the last row up),
H^-1 = R^-T R^-1, so U = R^-1: one factorisation and one triangular inverse, and H itself is the only large array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import EngineError

BLOCK = 256  # rows: temporaries are panels of 256 x K, products run at full speed from about 128

Matrix = NDArray[np.float64]


def inverse_cholesky(hessian_KK: Matrix) -> Matrix:
    """Overwrites a symmetric positive definite matrix by the upper U with U^T U = its inverse, and returns it.

    Raises EngineError where the matrix is not positive definite in float64.
    """
    _factorize(hessian_KK)
    _invert_upper(hessian_KK)
    return hessian_KK


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _factorize(matrix: Matrix) -> None:
    """matrix = R R^T: the upper triangle becomes R, the lower one 0."""
    for block in reversed(_blocks(len(matrix))):
        factor = _upper_factor(matrix[block, block])
        above = slice(0, block.start)
        panel = matrix[above, block] @ np.linalg.inv(factor).T
        matrix[block, block] = factor
        matrix[above, block] = panel
        matrix[block, above] = 0
        for rows in _blocks(block.start):
            matrix[rows, above] -= panel[rows] @ panel.T


def _upper_factor(block: Matrix) -> Matrix:
    """The upper R with block = R R^T: Cholesky's lower factor of the block read from the other corner."""
    try:
        flipped = np.asarray(np.linalg.cholesky(block[::-1, ::-1]), np.float64)
    except np.linalg.LinAlgError as error:
        raise EngineError("the Hessian is not positive definite: raise the damping") from error
    return flipped[::-1, ::-1]


def _invert_upper(matrix: Matrix) -> None:
    for block in _blocks(len(matrix)):
        inverse = np.triu(np.linalg.inv(matrix[block, block]))
        panel = matrix[: block.start, block] @ inverse
        for rows in _blocks(block.start):
            matrix[rows, block] = -(matrix[rows, rows.start : block.start] @ panel[rows.start :])
        matrix[block, block] = inverse
