"""Matrices that multiply the same rows (queries, keys and values; gate and up), side by side in memory: one product,
one launch. What each of them was becomes a view of the whole, so none is there twice.

A row of a matrix has a sum of its own, and the kernels cut it by the outputs of all matrices, joined or not
(`kernels.split.Cut`): a result has the same bits either way. Of dense products, torch's, that is known on its CPU
device alone: cuBLAS chooses its order of sums by the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vivace.backends.cuda.code_layout import TILE_ROWS
from vivace.backends.cuda.code_tiles import CodedMatrix
from vivace.backends.cuda.matrix import FloatMatrix, Fp8RowMatrix, Int8RowMatrix, Matrix
from vivace.ops import program as ir
from vivace.ops.program import Program, Weight

Stored = TypeVar("Stored", FloatMatrix, Int8RowMatrix, Fp8RowMatrix, CodedMatrix)


def joined(program: Program, release: Callable[[], None]) -> Program:
    """With one matrix in the place of several, where they are of one kind. Where the device's memory does not hold a
    second copy of those of one product, they stay apart.

    `release` gives freed memory back, and is called after each: torch keeps what the parts took, in blocks that the
    next whole does not fit. Without it an 8B in bf16, 15.0 GiB, would come to 23.5 when its last layer is joined;
    with it to 15.2, by the 224 MiB of gate and up.
    """
    return replace(program, ops=[_joined(op, release) if isinstance(op, ir.Linear) else op for op in program.ops])


def _joined(op: ir.Linear, release: Callable[[], None]) -> ir.Linear:
    if len(op.weights) == 1 or not (_are_of_one_kind(op.weights) and _are_all_or_none(op.biases)):
        return op
    try:
        weight = _side_by_side(op.weights)
    except torch.cuda.OutOfMemoryError:
        return op
    finally:
        release()
    return replace(op, weights=(weight,), biases=(_joined_bias(op.biases),))


def _are_of_one_kind(weights: Sequence[Weight]) -> bool:
    """Different matrices of one encoding that take inputs as they come, and end where tiles of rows end."""
    matrices = [weight.data for weight in weights]
    if len({id(matrix) for matrix in matrices}) < len(matrices) or len({weight.layout for weight in weights}) > 1:
        return False
    if isinstance(matrices[0], CodedMatrix) and any(weight.shape[0] % TILE_ROWS for weight in weights[:-1]):
        return False
    return all(getattr(matrix, "order", None) is None for matrix in matrices)


def _are_all_or_none(biases: Sequence[Weight | None]) -> bool:
    return len({bias is None for bias in biases}) == 1


def _side_by_side(weights: Sequence[Weight]) -> Weight:
    matrices: Any = [weight.data for weight in weights]
    matrix: Matrix = join(matrices)
    name, num_rows = " + ".join(weight.name for weight in weights), sum(weight.shape[0] for weight in weights)
    return Weight(name, (num_rows, weights[0].shape[1]), weights[0].layout, matrix.num_bytes, matrix)


def _joined_bias(biases: Sequence[Weight | None]) -> Weight | None:
    given = [bias for bias in biases if bias is not None]
    if not given:
        return None
    values = torch.cat([bias.data for bias in given])  # type: ignore[misc]
    return Weight(" + ".join(bias.name for bias in given), tuple(values.shape), "f32", values.nbytes, values)


def join(matrices: Sequence[Stored]) -> Stored:
    """One matrix with the rows of all, whose memory they then share. Joined again, they are where they were."""
    whole: dict[str, Tensor] = {}
    for name, axis in _row_axes(matrices[0]).items():  # one by one: the parts are free before the next
        whole[name] = along([getattr(matrix, name) for matrix in matrices], axis)
        start = 0
        for matrix in matrices:
            length = getattr(matrix, name).shape[axis]
            _set(matrix, name, whole[name].narrow(axis, start, length))
            start += length
    result = replace(matrices[0], num_rows=sum(matrix.num_rows for matrix in matrices))
    for name, tensor in whole.items():
        _set(result, name, tensor)
    return result


def along(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts behind each other: a view where they already lie so in one storage, else a copy."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        is_next = part.storage_offset() == end and part.stride() == first.stride()
        if not is_next or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts), dim=axis)
        end += part.shape[axis] * part.stride(axis)
    size = list(first.shape)
    size[axis] = sum(part.shape[axis] for part in parts)
    return first.as_strided(size, first.stride(), first.storage_offset())


def _row_axes(matrix: Matrix) -> dict[str, int]:
    """The tensors of a matrix that hold its rows, and along which axis."""
    if isinstance(matrix, FloatMatrix):
        return {"values_ND": 0}
    if isinstance(matrix, CodedMatrix):
        return {"words": 0, "headers": 2} | ({"high": 0} if matrix.layout.high_bits else {})
    return {"codes_ND": 0, "scales_N": 0}


def _set(matrix: Matrix, name: str, tensor: Tensor) -> None:
    setattr(matrix, name, tensor)
    if isinstance(matrix, CodedMatrix) and name == "words" and not matrix.layout.high_bits:
        matrix.high = tensor
