"""The tensors that together hold one quantised matrix, with checks that name the tensor at fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError


@dataclass(frozen=True, slots=True, eq=False)
class ModuleTensors:
    """Arrays of the module `module` (`model.layers.0.mlp.up_proj`) by the last part of their names (`qweight`).

    bfloat16 tensors arrive as float32. `path` is for messages.
    """

    path: str | PathLike[str]
    module: str
    arrays: Mapping[str, NDArray[Any]]

    def error(self, part: str, reason: str) -> ModelFileError:
        return ModelFileError(self.path, reason, field=f"{self.module}.{part}")

    def __contains__(self, part: str) -> bool:
        return part in self.arrays

    def array(self, part: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """The array, of one of the NumPy types `dtypes` and of `shape` (None: any size above 0)."""
        if part not in self.arrays:
            raise self.error(part, "the quantised matrix needs this tensor, which the checkpoint lacks")
        array = self.arrays[part]
        if array.dtype.name not in dtypes:
            raise self.error(part, f"has type {array.dtype.name}, expected {' or '.join(dtypes)}")
        fits = len(array.shape) == len(shape) and all(
            size == wanted if wanted is not None else size > 0
            for size, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted_text = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.error(
                part, f"has shape {array.shape}, the other tensors and the scheme ask for ({wanted_text})"
            )
        return array

    def scales(self, part: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        """Finite float32 numbers from any float type."""
        with np.errstate(over="ignore"):
            scales = self.array(part, ("float16", "float32", "float64"), shape).astype(np.float32)
        if not np.isfinite(scales).all():
            where = tuple(int(index) for index in np.argwhere(~np.isfinite(scales))[0])
            raise self.error(part, f"the scale at {where} is not a finite float32 number")
        return scales

    def group_numbers(self, part: str, num_inputs: int, group_size: int) -> NDArray[np.int32] | None:
        """The group of every input; None where groups are runs of `group_size` inputs.

        Activation order permutes the inputs and leaves the sizes of the groups alone: anything else is refused.
        """
        numbers = self.array(part, ("int32", "int64"), (num_inputs,))
        in_runs = np.arange(num_inputs, dtype=np.int32) // np.int32(group_size)
        if np.array_equal(numbers, in_runs):
            return None
        num_groups = int(in_runs[-1]) + 1
        if numbers.min() < 0 or numbers.max() >= num_groups:
            outside = int(np.flatnonzero((numbers < 0) | (numbers >= num_groups))[0])
            raise self.error(
                part, f"input {outside} is in group {numbers[outside]}, groups are 0 to {num_groups - 1}"
            )
        counts, expected = np.bincount(numbers, minlength=num_groups), np.bincount(in_runs, minlength=num_groups)
        if not np.array_equal(counts, expected):
            group = int(np.flatnonzero(counts != expected)[0])
            raise self.error(part, f"group {group} has {counts[group]} inputs, not {expected[group]}")
        return numbers.astype(np.int32)
