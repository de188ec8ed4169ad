"""The counted cost of a model against the recorded program that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.bench.cost import model_cost
from vivace.bench.timeline import run
from vivace.bench.workload import Workload
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.models.decoder import build_decoder
from vivace.ops.program import Attention, Linear


@pytest.fixture(scope="module")
def loaded(shared: Path) -> LoadedEngine:
    return load_engine(EngineConfig(model=str(shared / "weights" / "stories260K"), max_num_seqs=4, max_model_len=64))


def test_cost_is_what_the_program_does(loaded: LoadedEngine) -> None:
    ops = build_decoder(loaded.spec, loaded.parameters, 64).ops
    weights = [weight for op in ops if isinstance(op, Linear) for weight in op.weights]
    multiplied = sum(weight.shape[0] * weight.shape[1] for weight in weights)
    width = sum(op.num_heads * op.head_dim for op in ops if isinstance(op, Attention))
    cost = model_cost(loaded.spec, loaded.parameters, loaded.kv_spec)
    assert cost.decode_operations(0) == 2 * multiplied
    assert cost.decode_operations(10) - cost.decode_operations(9) == 4 * width
    # A prompt of one token is one decode step with a context of one.
    assert cost.prefill_operations(1) == cost.decode_operations(1)
    # Two tokens: everything twice but the output matrix, and three (query, key) pairs.
    head = weights[-1].shape[0] * weights[-1].shape[1]
    assert cost.prefill_operations(2) == 2 * (2 * multiplied - head) + 4 * width * 3


def test_bytes_of_a_step_are_weights_once_and_context_for_each_stream(loaded: LoadedEngine) -> None:
    cost = model_cost(loaded.spec, loaded.parameters, loaded.kv_spec)
    assert loaded.spec.tied_embeddings
    assert cost.decode_bytes(0, 0) == loaded.weight_bytes
    assert cost.decode_bytes(3, 7) - loaded.weight_bytes == 3 * 7 * loaded.kv_spec.bytes_per_token


def test_a_run_times_every_token_of_every_stream(loaded: LoadedEngine) -> None:
    workload = Workload(num_requests=6, prompt_len=9, output_len=5)
    ticks = iter(range(10_000))
    line = run(loaded.engine, workload, workload.prompts(512, seed=3), lambda: float(next(ticks)))
    assert [len(stream.tokens) for stream in line.streams] == [5] * 6
    for stream in line.streams:
        assert stream.tokens == sorted(stream.tokens)
        assert stream.tokens[0] > stream.arrival
    assert loaded.engine.num_unfinished == 0
