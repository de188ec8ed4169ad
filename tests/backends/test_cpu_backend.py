"""The CPU backend's edges: what it refuses, what it keeps alive, and buffers that share memory."""

from __future__ import annotations

import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from vivace.backends.cpu.backend import KV_DTYPES, CpuBackend, CpuExecutable, instruction_sets
from vivace.backends.reference.backend import ReferenceBackend
from vivace.core.config import KVDtype
from vivace.core.errors import ConfigError, EngineError, UnsupportedError
from vivace.formats.tensor import StoredTensor
from vivace.ops.backend import KVSpec, StepInputs, StepLimits
from vivace.ops.program import Program

SPEC = KVSpec(2, 2, 16, 8, "f32")
VOCABULARY, WIDTH = 50, 64
NUM_BLOCKS = 6


def matrix(rng: np.random.Generator, rows: int, columns: int) -> StoredTensor:
    data = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
    return StoredTensor("w", "f32", data.shape, data.view(np.uint8).reshape(rows, -1))


def decoder(backend: Any) -> Program:
    """Two layers with everything that a model records: residuals, q/k norm, rope, attention, a tied head."""
    rng = np.random.default_rng(3)
    program = Program()
    table = backend.pack("embedding", matrix(rng, VOCABULARY, WIDTH))
    frequencies = backend.vector("inv_freq", (100.0 ** -(np.arange(8) / 8)).astype(np.float32))
    x = program.embedding(table, 8.0)
    rope = program.rope_table(frequencies)
    norm = backend.vector("norm", rng.standard_normal(WIDTH).astype(np.float32))
    head_norm = backend.vector("head norm", rng.standard_normal(16).astype(np.float32))
    for layer in range(2):
        normed = program.rms_norm(x, norm, 1e-6)
        qkv = program.linear(normed, [backend.pack("w", matrix(rng, rows, WIDTH)) for rows in (64, 32, 32)])
        q = program.rope(program.rms_norm(qkv.columns(0, 64), head_norm, 1e-6, 4), rope, 16)
        k = program.rope(program.rms_norm(qkv.columns(64, 96), head_norm, 1e-6, 2), rope, 16)
        program.kv_write(k, qkv.columns(96, 128), layer)
        attended = program.attention(q, layer, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
        x = program.add(x, program.linear(attended, [backend.pack("o", matrix(rng, WIDTH, 64))]))
        gate_up = program.linear(program.rms_norm(x, norm, 1e-6), [backend.pack("gate_up", matrix(rng, 172, WIDTH))])
        down = program.linear(program.gated_activation(gate_up, "silu"), [backend.pack("d", matrix(rng, WIDTH, 86))])
        x = program.add(x, down)
    program.output = program.softcap(program.linear(program.gather_rows(program.rms_norm(x, norm, 1e-6)), [table]), 9)
    return program


def step(num_new: int, start: int = 0, sampled: int = 1) -> StepInputs:
    positions = np.arange(start, start + num_new, dtype=np.int32)
    return StepInputs(
        token_ids_T=positions * 7 % VOCABULARY,
        positions_T=positions,
        slots_T=positions,
        query_starts_B1=np.array([0, num_new], np.int32),
        context_lens_B=np.array([start + num_new], np.int32),
        block_tables_BX=np.arange(NUM_BLOCKS, dtype=np.int32)[None],
        sampled_rows_S=np.arange(num_new - sampled, num_new, dtype=np.int32),
    )


def compiled(backend: Any) -> Any:
    return backend.compile(decoder(backend), backend.kv_cache(SPEC, NUM_BLOCKS), StepLimits(40, 8))


@pytest.fixture
def executable() -> CpuExecutable:
    return compiled(CpuBackend(2))


@pytest.mark.parametrize("isa", instruction_sets())
def test_a_decoder_agrees_with_the_reference(isa: str) -> None:
    expected = compiled(ReferenceBackend(np.float64))
    for threads in (1, 2):
        actual = compiled(CpuBackend(threads, isa))
        for inputs in (step(30, sampled=8), step(1, start=30), step(5, start=31, sampled=3)):
            np.testing.assert_allclose(actual.run(inputs), expected.run(inputs), rtol=1e-4, atol=2e-5)


def test_weights_outlive_their_python_objects(executable: CpuExecutable) -> None:
    expected = np.array(executable.run(step(5)))
    gc.collect()
    CpuBackend(1).pack("noise", matrix(np.random.default_rng(0), 3000, 300))
    np.testing.assert_array_equal(executable.run(step(5)), expected)


def test_the_output_outlives_its_executable() -> None:
    out = compiled(CpuBackend(1)).run(step(3))
    copy = np.array(out)
    gc.collect()
    np.testing.assert_array_equal(out, copy)


def test_two_threads_may_run_programs_of_one_backend() -> None:
    backend = CpuBackend(2)
    programs = [compiled(backend) for _ in range(2)]
    expected = np.array(programs[0].run(step(30, sampled=8)))
    with ThreadPoolExecutor(2) as threads:
        runs = [
            threads.submit(lambda p=p: [np.array(p.run(step(30, sampled=8))) for _ in range(50)]) for p in programs
        ]
        for run in runs:
            for out in run.result():
                np.testing.assert_array_equal(out, expected)


def test_copied_blocks_hold_the_same_keys_and_values() -> None:
    backend = CpuBackend(1)
    cache = backend.kv_cache(SPEC, NUM_BLOCKS)
    executable = backend.compile(decoder(backend), cache, StepLimits(40, 8))
    executable.run(step(16))
    expected = np.array(executable.run(step(1, start=16)))
    cache.copy_blocks([(0, 3), (1, 5)])
    moved = step(1, start=16)
    moved.block_tables_BX = np.array([[3, 5, 2]], np.int32)
    np.testing.assert_array_equal(executable.run(moved), expected)
    with pytest.raises(EngineError, match="out of range"):
        cache.copy_blocks([(0, NUM_BLOCKS)])


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_a_copied_block_can_be_continued(dtype: KVDtype) -> None:
    backend = CpuBackend(1)
    cache = backend.kv_cache(KVSpec(2, 2, 16, 16, dtype), NUM_BLOCKS)
    executable = backend.compile(decoder(backend), cache, StepLimits(40, 8))
    executable.run(step(20))
    cache.copy_blocks([(0, 4), (1, 5)])
    expected = np.array(executable.run(step(20, start=20, sampled=8)))
    moved = step(20, start=20, sampled=8)
    moved.block_tables_BX = np.array([[4, 5, 3]], np.int32)
    blocks = moved.block_tables_BX[0][moved.positions_T // 16]
    moved.slots_T = blocks * np.int32(16) + moved.positions_T % np.int32(16)
    np.testing.assert_array_equal(executable.run(moved), expected)


BAD_STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "token id": ("vocabulary", {"token_ids_T": np.array([0, VOCABULARY, 0], np.int32)}),
    "negative token id": ("vocabulary", {"token_ids_T": np.array([0, -1, 0], np.int32)}),
    "slot": ("slot", {"slots_T": np.array([0, 1, NUM_BLOCKS * 8], np.int32)}),
    "sampled row": ("sampled row", {"sampled_rows_S": np.array([3], np.int32)}),
    "sampled rows": ("samples more", {"sampled_rows_S": np.zeros(9, np.int32)}),
    "block id": ("block id", {"block_tables_BX": np.array([[NUM_BLOCKS]], np.int32)}),
    "short table": (
        "too short",
        {"context_lens_B": np.array([9], np.int32), "block_tables_BX": np.array([[0]], np.int32)},
    ),
    "short context": ("disagree", {"context_lens_B": np.array([2], np.int32)}),
    "query starts": ("cover", {"query_starts_B1": np.array([0, 2], np.int32)}),
    "lengths": ("differ in length", {"positions_T": np.zeros(2, np.int32)}),
    "sequences": ("disagree", {"context_lens_B": np.array([3, 3], np.int32)}),
    "dtype": ("refused", {"slots_T": np.zeros(3, np.int64)}),
    "rank": ("refused", {"block_tables_BX": np.zeros(3, np.int32)}),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_bad_steps_are_refused_before_any_work(executable: CpuExecutable, name: str) -> None:
    message, changes = BAD_STEPS[name]
    with pytest.raises(EngineError, match=message):
        executable.run(dataclasses.replace(step(3), **changes))


def test_a_step_beyond_the_limits_is_refused(executable: CpuExecutable) -> None:
    with pytest.raises(EngineError, match="more tokens"):
        executable.run(step(41))


def test_shapes_that_do_not_fit_are_refused() -> None:
    backend = CpuBackend(1)
    program = Program()
    x = program.embedding(backend.pack("e", matrix(np.random.default_rng(0), 4, 48)))
    program.output = program.attention(x, 0, num_heads=3, num_kv_heads=1, head_dim=16, scale=1.0)
    with pytest.raises(EngineError, match="query heads"):
        backend.compile(program, backend.kv_cache(SPEC, 2), StepLimits(4, 1))
    with pytest.raises(EngineError, match="no output"):
        backend.compile(Program(), backend.kv_cache(SPEC, 2), StepLimits(4, 1))
    with pytest.raises(EngineError, match="another backend"):
        backend.compile(program, ReferenceBackend().kv_cache(SPEC, 2), StepLimits(4, 1))


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("head_dim", [8, 48, 64, 80])
def test_caches_take_the_bytes_that_their_spec_says(dtype: KVDtype, head_dim: int) -> None:
    for block_size in (16, 48):
        spec = KVSpec(3, 2, head_dim, block_size, dtype)
        assert CpuBackend(1).kv_cache(spec, 5).native.num_bytes == 5 * spec.bytes_per_block


def test_16_bit_keys_of_abandoned_blocks_are_dropped() -> None:
    """Sequences end one after the other in the middle of a block, each in a block of its own."""
    backend = CpuBackend(1)
    cache = backend.kv_cache(KVSpec(2, 2, 16, 16, "int4_k_per_channel"), 1000)
    executable = backend.compile(decoder(backend), cache, StepLimits(40, 8))
    references = [0] * 1000
    cache.track(references)
    for block in range(1000):
        references[block] = 1
        inputs = step(5)
        inputs.slots_T += 16 * block
        inputs.block_tables_BX = np.array([[block]], np.int32)
        executable.run(inputs)
        if block != 3:
            references[block] = 0
        assert cache.native.num_recent <= 70
    assert 3 in cache.native.recent_blocks()


def test_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match="instruction set"):
        CpuBackend(1, "avx9000")
    for threads in (0, -1, 100_000):
        with pytest.raises(ConfigError, match="num_threads"):
            CpuBackend(threads)
    backend = CpuBackend(1)
    with pytest.raises(UnsupportedError, match="iq2_xxs"):
        backend.pack("w", StoredTensor("w", "iq2_xxs", (1, 256), np.zeros((1, 66), np.uint8)))
    with pytest.raises(EngineError, match="do not hold"):
        backend.pack("w", StoredTensor("w", "f32", (2, 16), np.zeros((2, 60), np.uint8)))
    with pytest.raises(EngineError, match="at least 1"):
        backend.kv_cache(KVSpec(1, 1, 0, 16, "f32"), 1)
    with pytest.raises(EngineError, match="multiple of 16"):
        backend.kv_cache(KVSpec(1, 1, 64, 8, "int8_per_token_head"), 1)
    with pytest.raises(ConfigError, match="address space"):
        backend.kv_cache(KVSpec(1, 1, 128, 16, "f32"), 2**50)


def test_pack_reads_strided_rows() -> None:
    rng = np.random.default_rng(1)
    table = matrix(rng, 10, 32)
    backend = CpuBackend(1)
    out = np.empty(32, np.float32)
    every_other = StoredTensor("w", "f32", (5, 32), table.data[::2])
    weight = backend.pack("w", every_other)
    backend.device.embedding_row(weight.data, 3, 1.0, out)  # type: ignore[arg-type]
    np.testing.assert_array_equal(out, table.data[6].view(np.float32))
