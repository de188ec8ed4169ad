"""Every weight layout on the torch backend against its definition, on torch's CPU device. No GPU is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from paged_steps import run_rows, single_step
from quantized_weights import INT4, INT8_ROWS, random_weights, with_outliers

from vivace.backends.cuda import products
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.matrix import Matrix
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.errors import EngineError, UnsupportedError
from vivace.formats.dequantize import dequantize
from vivace.formats.fp8_rows import quantize_fp8
from vivace.formats.quantize_rtn import encode
from vivace.formats.tensor import FILE_ENCODINGS, StoredTensor
from vivace.ops.backend import KVSpec, StepLimits
from vivace.ops.program import Program, Weight

BACKEND = CudaBackend("cpu")
FROM_FILES = sorted(FILE_ENCODINGS)


def random_stored(encoding: str, num_rows: int, num_columns: int) -> StoredTensor:
    """Random bytes, with scales that are finite and of one size."""
    rng = np.random.default_rng(len(encoding) + num_columns)
    if encoding in ("f32", "f16", "bf16"):
        return encode(rng.standard_normal((num_rows, num_columns)).astype(np.float32), encoding)
    elements, size = FILE_ENCODINGS[encoding]
    blocks = rng.integers(0, 256, (num_rows, num_columns // elements, size), dtype=np.uint8)
    at = {"q6_k": (208,), "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2)}.get(encoding, (0,))
    for start in at:
        scales = rng.uniform(0.001, 0.02, blocks.shape[:2]).astype("<f2")
        blocks[:, :, start : start + 2] = scales[:, :, None].view(np.uint8)
    return StoredTensor("w", encoding, (num_rows, num_columns), blocks.reshape(num_rows, -1))


def matrix_of(weight: Weight) -> Matrix:
    data: Any = weight.data
    return data


@pytest.mark.parametrize("encoding", FROM_FILES)
def test_rows_decode_bit_for_bit(encoding: str) -> None:
    tensor = random_stored(encoding, 70, 512)
    weight = BACKEND.pack("w", tensor)
    expected = dequantize(tensor)
    assert (weight.shape, weight.layout) == ((70, 512), encoding)
    np.testing.assert_array_equal(matrix_of(weight).decode(slice(None)).float().numpy(), expected)
    rows = torch.tensor([5, 69, 5])
    np.testing.assert_array_equal(matrix_of(weight).decode(rows).float().numpy(), expected[[5, 69, 5]])


@pytest.mark.parametrize(
    ("encoding", "act_order"),
    [*((one, False) for one in (*FROM_FILES, *INT4, *INT8_ROWS, "fp8_channel")), *((one, True) for one in INT4)],
)
def test_products_and_embeddings(encoding: str, act_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "DECODED_ELEMENTS", 3000)
    if encoding in FILE_ENCODINGS:
        tensor = random_stored(encoding, 40, 256)
    elif encoding == "fp8_channel":
        tensor = quantize_fp8("w", np.random.default_rng(8).standard_normal((40, 256), dtype=np.float32))
    else:
        tensor = random_weights(encoding, 3, 40, 256, act_order=act_order).stored
    x = with_outliers(np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32), 2)
    bias = np.arange(40, dtype=np.float32)

    def product(backend: Any) -> np.ndarray:
        weight, offset = backend.pack("w", tensor), backend.vector("b", bias)
        return run_rows(backend, x, lambda program, rows: program.linear(rows, (weight, weight), (offset, None)))

    expected = product(ReferenceBackend(np.float64))
    np.testing.assert_allclose(product(BACKEND), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    rows = run_table(BACKEND, tensor)
    np.testing.assert_allclose(rows, 1.5 * dequantize(tensor)[:9], rtol=1e-6)


def run_table(backend: Any, tensor: StoredTensor) -> np.ndarray:
    program = Program()
    program.output = program.embedding(backend.pack("t", tensor), 1.5)
    executable = backend.compile(program, backend.kv_cache(KVSpec(1, 1, 8, 16, "f32"), 1), StepLimits(9, 9))
    return np.asarray(executable.run(single_step(9)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="q9_9"):
        BACKEND.pack("w", StoredTensor("w", "q9_9", (1, 1), np.zeros((1, 1), np.uint8)))
    with pytest.raises(EngineError, match="matrix"):
        BACKEND.pack("w", StoredTensor("w", "f32", (4,), np.zeros((1, 16), np.uint8)))
    with pytest.raises(EngineError, match="do not hold"):
        BACKEND.pack("w", StoredTensor("w", "f32", (2, 4), np.zeros((2, 8), np.uint8)))
    with pytest.raises(EngineError, match="vector"):
        BACKEND.vector("v", np.zeros((2, 2), np.float32))


def rows_program(name: str, backend: Any) -> Any:
    """Recorders of the operations that work row by row, over rows of 64."""
    weight = np.random.default_rng(4).standard_normal(16).astype(np.float32)
    frequencies = (1e4 ** -(np.arange(6) / 6)).astype(np.float32)

    def rope(program: Program, x: Any) -> Any:
        table = program.rope_table(backend.vector("f", frequencies), 1.1)
        return program.rope(x, table, 16)

    return {
        "norm": lambda program, x: program.rms_norm(x.columns(0, 16), backend.vector("n", weight), 1e-5),
        "norm by head": lambda program, x: program.rms_norm(x, backend.vector("n", weight), 1e-5, groups=4),
        "rope": rope,
        "silu": lambda program, x: program.gated_activation(x, "silu"),
        "gelu": lambda program, x: program.gated_activation(x, "gelu"),
        "gelu_tanh": lambda program, x: program.gated_activation(x, "gelu_tanh"),
        "add": lambda program, x: program.add(x.columns(0, 32), x.columns(32, 64)),
        "softcap": lambda program, x: program.softcap(x, 3.0),
        "scale": lambda program, x: program.scale(x, -0.3),
        "head residuals": lambda program, x: program.head_residuals(x.columns(0, 16), x.columns(16, 64)),
    }[name]


ROWS = ["norm", "norm by head", "rope", "silu", "gelu", "gelu_tanh", "add", "softcap", "scale", "head residuals"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("num_rows", [1, 17])
def test_operations_on_rows(name: str, num_rows: int) -> None:
    x = np.random.default_rng(num_rows).standard_normal((num_rows, 64)).astype(np.float32) * 3
    reference = ReferenceBackend(np.float64)
    expected = run_rows(reference, x, rows_program(name, reference))
    np.testing.assert_allclose(run_rows(BACKEND, x, rows_program(name, BACKEND)), expected, rtol=1e-5, atol=1e-6)


def test_given_states_and_named_states() -> None:
    program = Program()
    states = program.given_states(8)
    program.output = program.scale(states, 2.0)
    program.states = program.gather_rows(states)
    executable = BACKEND.compile(program, BACKEND.kv_cache(KVSpec(1, 1, 8, 16, "f32"), 1), StepLimits(3, 3))
    with pytest.raises(EngineError, match="has not run"):
        executable.states()
    step = single_step(3, sampled=[2, 0])
    with pytest.raises(EngineError, match="brings no states"):
        executable.run(step)
    step.states_TD = np.arange(24, dtype=np.float32).reshape(3, 8)
    np.testing.assert_array_equal(BACKEND.on_host(executable.run(step)), 2 * step.states_TD)
    np.testing.assert_array_equal(BACKEND.on_host(executable.states()), step.states_TD[[2, 0]])
    assert executable.run_timed(step).shape == (len(program.ops) + 1,)
    with pytest.raises(EngineError, match="larger than"):
        executable.run(single_step(4))
