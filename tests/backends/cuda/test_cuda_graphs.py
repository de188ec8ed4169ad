"""CUDA graphs on a stand-in for a GPU's driver (`recorded_driver`): which are captured when, and what they replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from recorded_driver import RecordedDriver

from vivace.backends.cuda import transfer
from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.graph_buckets import (
    ROWS,
    Bucket,
    GraphOptions,
    Over,
    bucket_step,
    fill_up,
    ladder,
    rows_of,
    width_of,
)
from vivace.backends.cuda.graphs import DRIVER_BYTES
from vivace.backends.cuda.kernels.ragged_rows import MOST_GRAPH_PARTS, graph_parts
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.backends.cuda.transfer import SMALLEST_STAGE, Upload
from vivace.core.errors import ConfigError
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


def test_buckets_of_rows() -> None:
    step = decode_step()
    assert rows_of(step, ROWS) == 4
    assert rows_of(step, (1, 2)) is None
    assert rows_of(step, ()) is None
    many = ROWS[-1] + 1
    step.context_lens_B = step.token_ids_T = np.ones(many, np.int32)
    assert rows_of(step, ROWS) is None


@pytest.mark.parametrize("change", ["prompt", "tree", "states"])
def test_steps_that_are_not_plain_decoding_have_no_bucket(change: str) -> None:
    step = decode_step()
    if change == "prompt":
        step.token_ids_T = int32(1, 2, 3, 4)
    if change == "tree":
        step.parents_T = int32(-1, -1, 1)
    if change == "states":
        step.states_TD = np.zeros((3, 4), np.float32)
    assert rows_of(step, ROWS) is None


def test_sizes_go_up_to_the_first_that_takes_all() -> None:
    assert GraphOptions().buckets_of_rows(5) == (1, 2, 4, 8)
    assert GraphOptions().buckets_of_rows(8) == (1, 2, 4, 8)
    assert GraphOptions().buckets_of_rows(10_000) == ROWS
    assert GraphOptions(sizes=(6, 3, 3)).buckets_of_rows(4) == (3, 6)
    assert GraphOptions(sizes=(3,)).buckets_of_rows(100) == (3,)
    assert GraphOptions().buckets_of_rows(0) == ()
    assert GraphOptions(enabled=False).buckets_of_rows(5) == ()


@pytest.mark.parametrize("over", ["parts", "blocks"])
def test_every_step_has_its_bucket_in_the_ladder(over: Over) -> None:
    """Contexts of any length up to the longest, alone and beside each other; a bucket's own step comes to it."""
    rng, sizes, longest, size = np.random.default_rng(20261122), (1, 3, 8, 70), 5000, 16
    buckets = ladder(sizes, over, longest, size)
    assert buckets == sorted(buckets, key=lambda one: (one.rows, one.reach), reverse=True)
    assert len(set(buckets)) == len(buckets)

    def bucket_of(inputs: StepInputs) -> Bucket:
        rows = rows_of(inputs, sizes)
        assert rows is not None
        filled = fill_up(inputs, rows, 0, size)
        width = 1 << (width_of(filled, size) - 1).bit_length()
        return Bucket(rows, over, width if over == "blocks" else graph_parts(filled))

    for bucket in buckets:
        step = bucket_step(bucket, longest, size, 0)
        assert step.context_lens_B.max() <= longest
        assert bucket_of(step) == bucket
    for _ in range(300):
        step = bucket_step(Bucket(int(rng.integers(1, 71)), "blocks", 1), longest, size, 0)
        most = longest if rng.random() < 0.3 else rng.integers(1, longest)
        step.context_lens_B = rng.integers(1, most + 1, len(step.context_lens_B)).astype(np.int32)
        step.block_tables_BX = np.zeros((len(step.context_lens_B), -(-longest // size)), np.int32)
        bucket = bucket_of(step)
        is_gathered = over == "parts" or bucket.rows * bucket.reach * size <= GATHERED_POSITIONS
        assert (bucket in buckets) == (is_gathered and bucket.reach <= MOST_GRAPH_PARTS)


def tiny(backend: CudaBackend, kv_dtype: Any = "bf16", num_blocks: int = 8, **limits: int) -> Any:
    """Attention over the cache, without anything beside it."""
    rows = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    program = Program()
    qkv = program.embedding(backend.pack("qkv", encode(rows, "f32")))
    program.kv_write(qkv.columns(32, 48), qkv.columns(48, 64), 0)
    heads = program.attention(qkv.columns(0, 32), 0, num_heads=4, num_kv_heads=2, head_dim=8, scale=1.0)
    program.output = program.gather_rows(heads)
    cache = backend.kv_cache(replace(SPEC, dtype=kv_dtype), num_blocks)
    return backend.compile(program, cache, StepLimits(8, 8, **limits))


def with_driver(options: GraphOptions = GraphOptions()) -> tuple[CudaBackend, RecordedDriver]:  # noqa: B008
    backend, driver = CudaBackend("cpu", graphs=options), RecordedDriver()
    backend.driver = driver
    return backend, driver


def random_step(rng: np.random.Generator, num_rows: int) -> StepInputs:
    """Of sequences with two blocks each, shuffled; some rows are not sampled."""
    contexts_B = rng.integers(1, 9, num_rows).astype(np.int32)
    tables_BX = rng.permutation(2 * num_rows).reshape(num_rows, 2).astype(np.int32)
    positions_T = contexts_B - np.int32(1)
    return StepInputs(
        token_ids_T=rng.integers(0, 4, num_rows).astype(np.int32),
        positions_T=positions_T,
        slots_T=tables_BX[np.arange(num_rows), positions_T // 4] * np.int32(4) + positions_T % np.int32(4),
        query_starts_B1=np.arange(num_rows + 1, dtype=np.int32),
        context_lens_B=contexts_B,
        block_tables_BX=tables_BX,
        sampled_rows_S=np.sort(rng.permutation(num_rows)[: rng.integers(1, num_rows + 1)]).astype(np.int32),
    )


def test_replayed_steps_compute_the_same_and_write_aside() -> None:
    """Whatever a graph was captured with, and whatever the steps before it left behind."""
    backend, driver = with_driver()
    graphed, plain = tiny(backend, max_sequences=4, max_context=8), tiny(CudaBackend("cpu"))
    backend.prepare(graphed)
    num_captures = driver.num_captures
    rng = np.random.default_rng(20261122)
    for number in range(40):
        step = random_step(rng, int(rng.integers(1, 5)))
        assert torch.equal(graphed.run(step), plain.run(step))
        assert driver.num_replays == number + 1
        caches = [one._cache.keys(0, torch.arange(32), torch.float32) for one in (graphed, plain)]
        assert torch.equal(*caches)
    assert driver.num_captures == num_captures


def test_graphs_are_captured_at_the_start_the_largest_first_in_one_pool() -> None:
    backend, driver = with_driver()
    executable = tiny(backend, max_sequences=3, max_context=20)
    seen: list[tuple[int, int]] = []
    choice = backend.prepare(executable, lambda done, total: seen.append((done, total)))
    expected = [Bucket(rows, "blocks", reach) for rows in (4, 2, 1) for reach in (8, 4, 2, 1)]
    assert executable.graphs.buckets == expected
    assert list(executable.graphs._captured) == expected
    assert seen == [(done, 12) for done in range(1, 13)]
    assert driver.given_pools == driver.pools * 12
    assert choice is not None
    assert (choice.name, choice.value) == ("cuda_graphs", 12)
    assert choice.reason == "for 1, 2, 4 rows; 0.12 GiB, measured"


def test_captures_that_were_put_off_come_with_the_first_step_of_their_size() -> None:
    backend, driver = with_driver(GraphOptions(at_start=False))
    executable = tiny(backend, max_sequences=3, max_context=20)
    choice = backend.prepare(executable)
    assert choice is not None
    assert (choice.value, choice.reason) == ("at first use", "as asked; 12 at most")
    assert driver.num_captures == 0
    for _ in range(3):
        executable.run(decode_step())
    assert (driver.num_captures, driver.num_replays) == (1, 3)


@pytest.mark.parametrize("kv_dtype", ["bf16", "int4_k_per_channel"])
def test_no_graphs_as_asked_or_where_the_cache_moves(kv_dtype: str) -> None:
    options = GraphOptions(enabled=kv_dtype != "bf16")
    backend, driver = with_driver(options)
    spec = KVSpec(1, 2, 32, 16, kv_dtype)  # type: ignore[arg-type]
    program = Program()
    program.output = program.gather_rows(program.embedding(backend.pack("x", encode(np.ones((4, 8)), "f32"))))
    executable = backend.compile(program, backend.kv_cache(spec, 4), StepLimits(8, 8))
    choice = backend.prepare(executable)
    assert choice is not None
    assert choice.value == "none"
    assert ("as asked" in choice.reason) == (kv_dtype == "bf16")
    executable.run(decode_step())
    assert driver.num_captures == driver.num_replays == 0


def test_steps_beyond_what_was_said_run_without_a_graph() -> None:
    backend, driver = with_driver()
    executable, plain = tiny(backend, max_sequences=2, max_context=8), tiny(CudaBackend("cpu"))
    backend.prepare(executable)
    step = decode_step()  # three rows, one of them of nine tokens
    assert torch.equal(executable.run(step), plain.run(step))
    assert driver.num_replays == 0


def test_a_capture_that_finds_no_memory_says_the_numbers() -> None:
    backend, driver = with_driver()
    executable = tiny(backend, max_sequences=3, max_context=20)
    driver.free_bytes = DRIVER_BYTES + (35 << 20)
    with pytest.raises(ConfigError) as raised:
        backend.prepare(executable)
    message = str(raised.value)
    assert message.startswith(
        "cpu has no memory for the CUDA graph of 2 rows: 4 of 12 graphs are captured, the next one needs 0.06 GiB, "
        "and 0.06 of 8.0 GiB are free; lower gpu_memory_utilization"
    )
    assert "max_num_seqs" in message
    assert "cuda_graph_sizes" in message
    assert "enforce_eager" in message
    driver.step_bytes = 3 << 30  # values that no graph had before
    with pytest.raises(ConfigError, match=r"4 of 12 graphs are captured, the next one needs 3\.06 GiB"):
        backend.prepare(executable)


def test_a_graph_that_does_not_fit_at_first_use_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    backend, driver = with_driver(GraphOptions(at_start=False))
    executable, plain = tiny(backend, max_sequences=3, max_context=20), tiny(CudaBackend("cpu"))
    driver.free_bytes = DRIVER_BYTES - 1
    for _ in range(2):
        assert torch.equal(executable.run(decode_step()), plain.run(decode_step()))
    assert driver.num_captures == driver.num_replays == 0
    assert [one.message for one in caplog.records if "no memory for the CUDA graph of 4 rows" in one.message]
    assert len(caplog.records) == 1


def test_no_graph_off_a_gpu() -> None:
    backend = CudaBackend("cpu")
    executable = tiny(backend)
    assert not executable.graphs.is_active
    assert executable.graphs.run(decode_step()) is None
    assert backend.prepare(executable) is None


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


def test_weights_travel_in_parts_of_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "STAGED_BYTES", 40)
    data = np.random.default_rng(1).integers(0, 256, (23, 3, 5)).astype(np.uint8)
    staged = transfer.StagedCopy(CPU)
    for array in (data, data[:, :, 1:3], data[:, 1], data[:1], data[:0]):
        assert np.array_equal(staged.send(array).numpy(), array)
