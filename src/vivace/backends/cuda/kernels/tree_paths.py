"""Rows with parents, for kernels: where the keys and values of each row's own path lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vivace.ops.backend import StepInputs

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TreePaths:
    """Row t reads positions from `firsts_T[t]` on from slots `slots_TW[t, 0]`, [t, 1], ..; those before, and all of a
    row without a parent, whose first lies behind its own position, through its sequence's block table."""

    firsts_T: Tensor
    slots_TW: Tensor


def path_arrays(inputs: StepInputs) -> dict[str, Int32Array]:
    """`path_firsts` and `path_slots` of a step; empty where no row has a parent."""
    parents_T = inputs.parents_T
    if parents_T is None or not (parents_T >= 0).any():
        return {}
    paths = {row: _path(parents_T, row) for row in np.flatnonzero(parents_T >= 0).tolist()}
    firsts_T = (inputs.positions_T + 1).astype(np.int32)
    slots_TW = np.zeros((len(parents_T), max(map(len, paths.values()))), np.int32)
    for row, path in paths.items():
        firsts_T[row] -= len(path)
        slots_TW[row, : len(path)] = inputs.slots_T[path]
    return {"path_firsts": firsts_T, "path_slots": slots_TW}


def _path(parents_T: Int32Array, row: int) -> list[int]:
    """The row and its ancestors that have parents, the first one first."""
    path = []
    while parents_T[row] >= 0:
        path.append(row)
        row = int(parents_T[row])
    return path[::-1]
