"""The interpreter: cache precision, block copies, limits. Its arithmetic is tested op by op and model by model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivace.backends.reference.backend import ReferenceBackend, ReferenceExecutable
from vivace.core.config import KVDtype
from vivace.core.errors import EngineError
from vivace.formats.quantize_rtn import encode
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program

HEAD_DIM = 4


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def step(token_ids: np.ndarray, sampled_rows: np.ndarray) -> StepInputs:
    num_tokens = len(token_ids)
    positions = np.arange(num_tokens, dtype=np.int32)
    return StepInputs(
        token_ids, positions, positions, int32(0, num_tokens), int32(num_tokens), int32(0, 1)[None], sampled_rows
    )


def attention_program(backend: ReferenceBackend, table: np.ndarray) -> Program:
    """One head that attends to embeddings as queries, keys and values."""
    program = Program()
    x = program.embedding(backend.pack("table", encode(table, "f32")))
    program.kv_write(x, x, 0)
    heads = program.attention(x, 0, num_heads=1, num_kv_heads=1, head_dim=HEAD_DIM, scale=1.0)
    program.output = program.gather_rows(heads)
    return program


def compiled(
    dtype: KVDtype, table: np.ndarray, limits: StepLimits, backend: ReferenceBackend | None = None
) -> ReferenceExecutable:
    backend = backend or ReferenceBackend()
    cache = backend.kv_cache(KVSpec(1, 1, HEAD_DIM, 4, dtype), 3)
    return backend.compile(attention_program(backend, table), cache, limits)


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)]
)
def test_cached_values_are_rounded_to_the_cache_type(dtype: KVDtype, torch_dtype: torch.dtype) -> None:
    table = np.random.default_rng(1).standard_normal((9, HEAD_DIM), np.float32)
    out = compiled(dtype, table, StepLimits(9, 9)).run(step(int32(7), int32(0)))
    expected = torch.asarray(table[7]).to(torch_dtype).float().numpy()  # one position: its value, weight 1
    assert np.array_equal(out[0], expected)


def test_float64_keeps_its_precision_inside() -> None:
    table = np.random.default_rng(2).standard_normal((9, HEAD_DIM), np.float32)
    executable = compiled("f32", table, StepLimits(9, 9), ReferenceBackend(np.float64))
    inputs = step(np.arange(5, dtype=np.int32), int32(4, 0))
    exact = table[:5].astype(np.float64)
    weights = np.exp(exact[4] @ exact.T)
    out = executable.run(inputs)
    assert out.dtype == np.float32
    assert np.array_equal(out[0], (weights / weights.sum() @ exact).astype(np.float32))
    assert np.array_equal(out[1], table[0])


def test_copied_blocks_hold_the_same_in_order() -> None:
    cache = ReferenceBackend().kv_cache(KVSpec(2, 1, HEAD_DIM, 4, "f32"), 4)
    cache.keys[:, 0], cache.values[:, 0] = 1, 2
    cache.copy_blocks([(0, 2), (2, 3)])
    for block in (0, 2, 3):
        assert (cache.keys[:, block] == 1).all()
        assert (cache.values[:, block] == 2).all()
    assert np.isnan(cache.keys[:, 1]).all()


def test_no_sampled_rows_give_no_logits() -> None:
    table = np.ones((9, HEAD_DIM), np.float32)
    assert compiled("f32", table, StepLimits(4, 1)).run(step(int32(1, 2), int32())).shape == (0, HEAD_DIM)


def test_steps_over_the_limits_and_programs_without_output_are_bugs() -> None:
    table = np.ones((9, HEAD_DIM), np.float32)
    executable = compiled("f32", table, StepLimits(2, 1))
    for inputs in (step(int32(1, 2, 3), int32(0)), step(int32(1, 2), int32(0, 1))):
        with pytest.raises(EngineError, match="larger than"):
            executable.run(inputs)
    backend = ReferenceBackend()
    with pytest.raises(EngineError, match="no output"):
        backend.compile(Program(), backend.kv_cache(KVSpec(1, 1, 4, 4, "f32"), 1), StepLimits(1, 1))
