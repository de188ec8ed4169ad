"""What a CUDA graph replays, run without one: steps filled up to a bucket. Graphs themselves need a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.graphs import BUCKETS, StepGraphs, bucket_of, fill_up
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.step import StepPlan, device_step, step_arrays
from vivace.backends.cuda.transfer import SMALLEST_STAGE, Upload, num_integers
from vivace.formats.quantize_rtn import encode
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program

SPEC = KVSpec(1, 2, 8, 4, "bf16")
CPU = torch.device("cpu")


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def decode_step() -> StepInputs:
    """Three rows in contexts of 1, 6 and 9 tokens; two of them are sampled."""
    return StepInputs(
        token_ids_T=int32(3, 1, 2),
        positions_T=int32(0, 5, 8),
        slots_T=int32(4, 13, 24),
        query_starts_B1=int32(0, 1, 2, 3),
        context_lens_B=int32(1, 6, 9),
        block_tables_BX=np.array([[1, 99, 99, 99], [2, 3, 99, 99], [4, 5, 6, 99]], np.int32),
        sampled_rows_S=int32(2, 0),
    )


def test_buckets() -> None:
    step = decode_step()
    assert bucket_of(step, 4) == (4, 4)
    step.context_lens_B = int32(1, 6, 17)
    assert bucket_of(step, 4) == (4, 8)
    step.context_lens_B = int32(1, 6, 1 << 20)
    assert bucket_of(step, 4) is None  # more to gather than one group takes
    assert bucket_of(step, 4, most_positions=None) == (4, 1 << 18)
    many = BUCKETS[-1] + 1
    step.context_lens_B = step.token_ids_T = np.ones(many, np.int32)
    assert bucket_of(step, 4) is None


@pytest.mark.parametrize("change", ["prompt", "tree", "states"])
def test_steps_that_are_not_plain_decoding_have_no_bucket(change: str) -> None:
    step = decode_step()
    if change == "prompt":
        step.token_ids_T = int32(1, 2, 3, 4)
    if change == "tree":
        step.parents_T = int32(-1, -1, 1)
    if change == "states":
        step.states_TD = np.zeros((3, 4), np.float32)
    assert bucket_of(step, 4) is None


def test_a_filled_step_computes_the_same_and_writes_aside() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    backend = CudaBackend("cpu")
    outputs, caches = [], []
    for filled in (False, True):
        program = Program()
        qkv = program.embedding(backend.pack("qkv", encode(rows, "f32")))
        program.kv_write(qkv.columns(32, 48), qkv.columns(48, 64), 0)
        heads = program.attention(qkv.columns(0, 32), 0, num_heads=4, num_kv_heads=2, head_dim=8, scale=1.0)
        program.output = program.gather_rows(heads)
        cache = backend.kv_cache(SPEC, 8)
        executable = backend.compile(program, cache, StepLimits(8, 8))
        step, upload = decode_step(), Upload(CPU)
        if filled:
            step = fill_up(step, 4, 4, cache.spare_slot, SPEC.block_size)
            plan = executable._graph_plan(step, 16)
            arrays = step_arrays(step, plan)
            sent = upload.send(arrays, torch.empty(num_integers(arrays), dtype=torch.int32))
            outputs.append(executable._execute(device_step(sent, plan, SPEC))[0][:2])
        else:
            outputs.append(executable._execute(executable._send(step))[0])
        caches.append(cache.keys(0, torch.arange(cache.spare_slot), torch.float32))
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(*outputs)
    assert torch.equal(*caches)


def test_no_graph_off_a_gpu() -> None:
    cache = CudaKVCache(SPEC, 8, CPU)
    graphs = StepGraphs(cache, Upload(CPU), lambda *_: StepPlan([]), lambda *_: (torch.zeros(1), None))
    assert not graphs.is_active
    assert graphs.run(decode_step()) is None


def test_uploads_of_any_size_keep_their_shapes() -> None:
    upload = Upload(CPU)
    for size in (3, 2 * SMALLEST_STAGE, 5):
        arrays = {
            "a": np.arange(size, dtype=np.int32),
            "none": int32(),
            "b": np.arange(6, dtype=np.int32).reshape(2, 3),
        }
        sent = upload.send(arrays)
        assert all(np.array_equal(sent[name].numpy(), array) for name, array in arrays.items())
