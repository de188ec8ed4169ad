"""Row operations on every instruction set against the float64 reference, and bit by bit against single rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from paged_steps import run_rows, single_step, stored

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.reference.backend import ReferenceBackend
from vivace.ops.backend import KVSpec, StepLimits
from vivace.ops.program import Program, Value

SEED = 20261122
Record = Callable[[Any, Program, Value], Value]


def rms_norm(groups: int) -> Record:
    def record(backend: Any, program: Program, x: Value) -> Value:
        weight = np.linspace(0.5, 1.5, x.width // groups, dtype=np.float32)
        return program.rms_norm(x, backend.vector("norm", weight), 1e-6, groups)

    return record


def rope(head_dim: int, rotated: int) -> Record:
    def record(backend: Any, program: Program, x: Value) -> Value:
        frequencies = (10000.0 ** (-np.arange(rotated // 2) / (rotated / 2))).astype(np.float32)
        table = program.rope_table(backend.vector("inv_freq", frequencies), 1.25)
        return program.rope(x, table, head_dim)

    return record


def gated(activation: Any) -> Record:
    return lambda _, program, x: program.gated_activation(x, activation)


def linear(backend: Any, program: Program, x: Value) -> Value:
    rng = np.random.default_rng(SEED)
    weights = [
        backend.pack("w", stored(rng.standard_normal((rows, x.width)) / np.sqrt(x.width))) for rows in (16, 5, 40)
    ]
    bias = backend.vector("b", rng.standard_normal(5).astype(np.float32))
    return program.linear(x, weights, [None, bias, None])


def inner_columns(_: Any, program: Program, x: Value) -> Value:
    half = x.width // 2
    return program.add(x.columns(0, half), x.columns(half, 2 * half))


def add_twice(_: Any, program: Program, x: Value) -> Value:
    return program.add(program.add(x, x), program.scale(x, -0.75))


OPS: dict[str, tuple[int, Record]] = {
    "rms_norm": (172, rms_norm(1)),
    "rms_norm wide": (4096, rms_norm(1)),
    "rms_norm by head": (3 * 40, rms_norm(3)),
    "rope": (4 * 64, rope(64, 64)),
    "rope head 8": (5 * 8, rope(8, 8)),
    "rope partial": (2 * 80, rope(80, 24)),
    "silu": (2 * 172, gated("silu")),
    "gelu": (2 * 172, gated("gelu")),
    "gelu_tanh": (2 * 3000, gated("gelu_tanh")),
    "linear": (172, linear),
    "columns": (2 * 86, inner_columns),
    "add": (1501, add_twice),
    "softcap": (1501, lambda _, program, x: program.softcap(x, 3.0)),
    "scale": (1501, lambda _, program, x: program.scale(x, 0.3)),
}


@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("name", OPS)
def test_agrees_with_the_reference(cpu: CpuBackend, name: str, num_rows: int) -> None:
    width, record = OPS[name]
    x = np.random.default_rng(SEED).standard_normal((num_rows, width)).astype(np.float32) * 3
    expected = run_rows(ReferenceBackend(np.float64), x, lambda *args: record(ReferenceBackend(np.float64), *args))
    actual = run_rows(cpu, x, lambda *args: record(cpu, *args))
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in OPS if "rope" not in name])
def test_a_row_alone_has_the_same_bits(isa: str, name: str) -> None:
    width, record = OPS[name]
    one, two = CpuBackend(1, isa), CpuBackend(2, isa)
    x = np.random.default_rng(SEED).standard_normal((90, width)).astype(np.float32)
    together = run_rows(two, x, lambda *args: record(two, *args))
    for row in (0, 1, 44, 89):
        alone = run_rows(one, x[row : row + 1], lambda *args: record(one, *args))
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations_over_their_whole_range(isa: str, activation: str) -> None:
    gate = np.concatenate([np.linspace(-100, 100, 20001), [-1e30, 1e30, 0.0, 1e-30, -1e-30]]).astype(np.float32)
    x = np.concatenate([gate, np.ones_like(gate)])[None]
    backend = CpuBackend(1, isa)
    actual = run_rows(backend, x, lambda *args: gated(activation)(backend, *args))
    reference = ReferenceBackend(np.float64)
    expected = run_rows(reference, x, lambda *args: gated(activation)(reference, *args))
    np.testing.assert_allclose(actual, expected, rtol=1.5e-6, atol=1e-7)


def test_softcap_keeps_small_values_and_saturates(isa: str) -> None:
    x = np.array([[0.0, 1e-20, -1e-6, 0.3, 40.0, -1e20, np.inf, -np.inf]], np.float32)
    backend = CpuBackend(1, isa)
    actual = run_rows(backend, x, lambda program, value: program.softcap(value, 30.0))
    np.testing.assert_allclose(actual, 30 * np.tanh(x.astype(np.float64) / 30), rtol=5e-7)


def test_nan_stays_in_its_element(isa: str) -> None:
    x = np.ones((1, 64), np.float32)
    x[0, 5] = np.nan
    backend = CpuBackend(1, isa)
    for name in ("silu", "gelu", "gelu_tanh"):
        out = run_rows(backend, x, lambda *args, name=name: gated(name)(backend, *args))
        assert np.flatnonzero(np.isnan(out[0])).tolist() == [5]


def test_gather_rows(cpu: CpuBackend) -> None:
    x = np.random.default_rng(SEED).standard_normal((9, 24)).astype(np.float32)
    program = Program()
    program.output = program.gather_rows(program.embedding(cpu.pack("x", stored(x)), 2.0))
    cache = cpu.kv_cache(KVSpec(1, 1, 8, 16, "f32"), 1)
    executable = cpu.compile(program, cache, StepLimits(9, 4))
    np.testing.assert_array_equal(executable.run(single_step(9, [8, 0, 3])), 2 * x[[8, 0, 3]])
    assert executable.run(single_step(9, [])).shape == (0, 24)
