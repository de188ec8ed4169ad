"""A quantised matrix before any packing: codes, scales and zero points as plain arrays.

What quantisers make, what readers of GPTQ, AWQ and compressed-tensors files return and what their writers take.
Shape letters: N outputs (rows), K inputs (columns), G groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import EngineError


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """w[n, k] = scales[n, g] * (codes[n, k] - zeros[n, g]), where g is k's group.

    `group_of_K` is the group of every input where the groups are not runs of `group_size` inputs (GPTQ's activation
    order, `desc_act`); else None. `group_size` is K for one scale a row. Symmetric codes have zeros of 2**(bits - 1)
    everywhere, int8 included: code 128 is 0.
    """

    bits: int
    group_size: int
    codes_NK: NDArray[np.uint8]
    scales_NG: NDArray[np.float32]
    zeros_NG: NDArray[np.uint8]
    group_of_K: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        num_rows, num_columns = self.codes_NK.shape
        num_groups = -(-num_columns // self.group_size)
        if self.scales_NG.shape != (num_rows, num_groups) or self.zeros_NG.shape != (num_rows, num_groups):
            raise EngineError(
                f"codes {self.codes_NK.shape} in groups of {self.group_size} do not go with scales "
                f"{self.scales_NG.shape} and zeros {self.zeros_NG.shape}"
            )
        if self.group_of_K is not None and self.group_of_K.shape != (num_columns,):
            raise EngineError(f"{self.group_of_K.shape} group numbers for {num_columns} inputs")

    @property
    def shape(self) -> tuple[int, int]:
        num_rows, num_columns = self.codes_NK.shape
        return num_rows, num_columns

    @property
    def is_symmetric(self) -> bool:
        return bool((self.zeros_NG == 1 << (self.bits - 1)).all())

    @property
    def groups_K(self) -> NDArray[np.int32]:  # noqa: N802 - a shape letter
        """The group of every input."""
        if self.group_of_K is not None:
            return self.group_of_K
        return np.arange(self.codes_NK.shape[1], dtype=np.int32) // np.int32(self.group_size)

    def dequantize(self) -> NDArray[np.float32]:
        """[N, K], float32: codes less zeros are exact, the product is rounded once."""
        groups = self.groups_K
        levels = self.codes_NK.astype(np.int16) - self.zeros_NG.astype(np.int16)[:, groups]
        return levels.astype(np.float32) * self.scales_NG[:, groups]
