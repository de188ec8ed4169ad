"""Matrices side by side: the same bits as one by one, in the same memory."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from triton_interpreter import DEVICE, HAS_DEVICE, torch

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.code_layout import LAYOUTS
from vivace.backends.cuda.joined import along, join, joined
from vivace.backends.cuda.kernels import split
from vivace.backends.cuda.kernels.matrix_product import write_product
from vivace.backends.cuda.matrix import load_matrix
from vivace.models.dummy import DummyTensors
from vivace.ops.program import Linear, Program, Weight

INPUTS = 512
ROWS = (128, 64, 40)  # of the matrices: only the last one may end inside a tile
ENCODINGS = (*LAYOUTS, "int8_channel", "int8_outlier", "fp8_channel")
FLOATS = ("f32", "f16", "bf16")


def matrices_of(encoding: str, rows: tuple[int, ...] = ROWS) -> list[Any]:
    tensors = DummyTensors(encoding, 5)
    return [load_matrix(tensors.matrix(f"m{number}", (count, INPUTS)), DEVICE) for number, count in enumerate(rows)]


@pytest.mark.parametrize("encoding", [*ENCODINGS, *FLOATS])
def test_rows_stay_what_they_were(encoding: str) -> None:
    matrices = matrices_of(encoding)
    expected = torch.cat([matrix.decode(slice(None)) for matrix in matrices])
    num_bytes = sum(matrix.num_bytes for matrix in matrices)
    whole = join(matrices)
    assert (whole.num_rows, whole.num_bytes) == (sum(ROWS), num_bytes)
    assert torch.equal(whole.decode(slice(None)), expected)
    assert torch.equal(torch.cat([matrix.decode(slice(None)) for matrix in matrices]), expected)


@pytest.mark.parametrize("encoding", [*ENCODINGS, *FLOATS])
def test_no_memory_is_taken_twice(encoding: str) -> None:
    """Parts are views of the whole; joined again, some of them or all, they are not copied."""
    matrices = matrices_of(encoding)
    again = [join(matrices), join(matrices), join(matrices[:2])]
    for name in [
        slot for slot in type(matrices[0]).__slots__ if isinstance(getattr(matrices[0], slot), torch.Tensor)
    ]:
        storages = {getattr(one, name).untyped_storage().data_ptr() for one in (*matrices, *again)}
        assert len(storages) == 1, name


@pytest.mark.parametrize("num_rows", [2, 70])
@pytest.mark.parametrize("encoding", ["int4_g128", "q4_k", *ENCODINGS[-3:]])
def test_products_have_the_same_bits(encoding: str, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one launch, one by one in memory of their own, and one by one as views. With a bias, into columns. Each
    alone would have its inputs cut."""
    monkeypatch.setattr(split, "ENOUGH_PROGRAMS", 4)
    assert [split.split_of(rows, INPUTS // 128, 128) for rows in (*ROWS, sum(ROWS))] == [2, 2, 2, 1]
    rng = np.random.default_rng(61)
    x = torch.from_numpy(rng.standard_normal((num_rows, INPUTS), dtype=np.float32)).to(DEVICE).bfloat16()
    bias = torch.from_numpy(rng.standard_normal(sum(ROWS), dtype=np.float32)).to(DEVICE)
    matrices = matrices_of(encoding)

    def one_by_one() -> torch.Tensor:
        out = torch.empty((num_rows, sum(ROWS)), dtype=torch.bfloat16, device=DEVICE)
        parts = zip(matrices, out.split(ROWS, dim=1), bias.split(ROWS), strict=True)
        for matrix, columns, offsets in parts:
            write_product(x, matrix, columns, offsets, sum(ROWS))
        return out

    apart = one_by_one()
    together = torch.empty_like(apart)
    write_product(x, join(matrices), together, bias)
    assert torch.equal(together, apart)
    assert num_rows > 2 or torch.equal(one_by_one(), apart)


def linear_of(weights: list[Weight], biases: list[Weight | None] | None = None) -> Linear:
    """What becomes of a product with these."""
    program = Program()
    program.output = program.linear(program.given_states(INPUTS), weights, biases)
    op = joined(program, lambda: None).ops[-1]
    assert isinstance(op, Linear)
    return op


def test_a_program_multiplies_once() -> None:
    backend, tensors = CudaBackend("cuda" if HAS_DEVICE else "cpu"), DummyTensors("q4_0", 3)
    q, k, v = (backend.pack(name, tensors.matrix(name, (64, INPUTS))) for name in ("q", "k", "v"))
    biases: list[Weight | None] = [backend.vector(name, np.arange(64, dtype=np.float32)) for name in ("a", "b", "c")]
    op = linear_of([q, k, v], biases)
    assert [(weight.name, weight.shape, weight.layout) for weight in op.weights] == [
        ("q + k + v", (192, INPUTS), "q4_0")
    ]
    assert op.biases[0] is not None
    assert op.biases[0].shape == (192,)
    assert len(linear_of([q, k, v]).weights) == 1


def test_what_stays_apart() -> None:
    """Another encoding, an order of inputs, a tile that another matrix would begin in, one bias, the same one."""
    backend = CudaBackend("cuda" if HAS_DEVICE else "cpu")

    def weight(encoding: str, num_rows: int = 64) -> Weight:
        return backend.pack("m", DummyTensors(encoding, 3).matrix("m", (num_rows, INPUTS)))

    ordered = weight("q4_0")
    order = torch.arange(INPUTS).flip(0)
    ordered = replace(ordered, data=replace(ordered.data, order=order))  # type: ignore[type-var]
    one, bias = weight("q4_0"), backend.vector("b", np.ones(64, np.float32))
    for pair in ([weight("q8_0"), one], [one, ordered], [weight("q4_0", 40), one], [one, one]):
        assert len(linear_of(pair).weights) == 2
    assert len(linear_of([weight("q4_0"), one], [bias, None]).weights) == 2


def test_without_memory_for_a_copy_they_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("none left")

    backend, tensors = CudaBackend("cuda" if HAS_DEVICE else "cpu"), DummyTensors("int8_channel", 3)
    pair = [backend.pack(name, tensors.matrix(name, (64, INPUTS))) for name in ("q", "k")]
    monkeypatch.setattr(torch, "cat", no_memory)
    assert linear_of(pair).weights == tuple(pair)


@pytest.mark.parametrize("encoding", ["q4_k", "int8_channel", "bf16"])
def test_parts_are_free_before_the_next_product_is_joined(encoding: str) -> None:
    """Of each tensor and product: beside the model there is never more than one product twice."""
    backend, tensors = CudaBackend("cuda" if HAS_DEVICE else "cpu"), DummyTensors(encoding, 3)
    program = Program()
    x = program.given_states(INPUTS)
    parts: list[list[weakref.ref[Any]]] = []
    for layer in range(3):
        pair = [backend.pack(f"{layer}.{name}", tensors.matrix(name, (64, INPUTS))) for name in ("gate", "up")]
        parts.append([weakref.ref(one.untyped_storage()) for weight in pair for one in tensors_of(weight.data)])
        program.output = program.linear(x, pair)
    assert all(part() is not None for layer in parts for part in layer)
    left: list[list[int]] = []

    def release() -> None:
        left.append([sum(part() is not None for part in layer) for layer in parts])

    result = joined(program, release)
    count = len(parts[0])
    assert left == [[0, count, count], [0, 0, count], [0, 0, 0]]
    assert all(len(op.weights) == 1 for op in result.ops if isinstance(op, Linear))


def tensors_of(matrix: Any) -> list[Any]:
    values = (getattr(matrix, slot) for slot in type(matrix).__slots__)
    return [value for value in values if isinstance(value, torch.Tensor)]


def test_parts_of_other_memory_are_copied() -> None:
    whole = torch.arange(24).reshape(6, 4)
    assert along([whole[:2], whole[2:5]], 0).data_ptr() == whole.data_ptr()
    for parts in ([whole[:2], whole[3:]], [whole[2:], whole[:2]], [whole[:2], whole[2:].clone()]):
        copied = along(parts, 0)
        assert copied.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
        assert torch.equal(copied, torch.cat(parts))
