"""What operations cost, against counts by hand and against the cost of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.bench.cost import model_cost
from vivace.bench.op_cost import DEVICE, HOST, StepShape, numbers_of, op_cost
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.models.decoder import build_decoder
from vivace.ops import program as ir
from vivace.ops.backend import KVSpec
from vivace.ops.program import Program, Rows, Value, Weight

KV = KVSpec(num_layers=2, num_kv_heads=2, head_dim=8, block_size=16, dtype="bf16")


def value(width: int, rows: Rows = Rows.TOKENS) -> Value:
    return Value(0, rows, width, 0, width)


def attention(window: int | None) -> ir.Attention:
    return ir.Attention(value(32), 0, 4, 2, 8, 1.0, window, None, value(32))


def brute_pairs(step: StepShape, window: int | None) -> int:
    pairs = 0
    for new, context in zip(step.new_tokens, step.context_lens, strict=True):
        for position in range(context - new, context):
            first = 0 if window is None else max(0, position - window + 1)
            pairs += len(range(first, position + 1))
    return pairs


@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_attention_counts_pairs_and_reads_each_key_once(window: int | None) -> None:
    step = StepShape((1, 3, 5), (7, 3, 20))
    cost = op_cost(attention(window), step, KV)
    assert cost.operations == 4 * 4 * 8 * brute_pairs(step, window)
    seen = 0
    for new, context in zip(step.new_tokens, step.context_lens, strict=True):
        first = 0 if window is None else max(0, context - new - window + 1)
        seen += context - first
    assert cost.num_bytes == seen * 2 * 2 * 8 * 2 + 9 * 2 * 32 * 4
    assert (cost.role, cost.unit) == ("attention", "bf16")


def test_a_product_reads_its_weights_once() -> None:
    weights = tuple(Weight(f"layers.1.{name}", (16, 64), "q4_0", 576, None) for name in ("gate", "up"))
    op = ir.Linear(value(64), weights, (None, None), value(32))
    cost = op_cost(op, StepShape((2, 1), (2, 9)), KV)
    assert (cost.role, cost.unit) == ("gate_up", "int8")
    assert cost.operations == 2 * 3 * 2 * 16 * 64
    assert cost.num_bytes == 2 * 576 + 3 * (64 + 32) * 4


def test_sampled_rows_are_one_a_sequence() -> None:
    table = Weight("token_embedding", (100, 64), "bf16", 12800, None)
    op = ir.Linear(value(64, Rows.SAMPLED), (table,), (None,), value(100, Rows.SAMPLED))
    cost = op_cost(op, StepShape((5, 1), (5, 9)), KV)
    assert (cost.role, cost.unit, cost.operations) == ("lm_head", "bf16", 2 * 2 * 6400)
    looked_up = op_cost(ir.Embedding(table, 1.0, value(64)), StepShape((5, 1), (5, 9)), KV)
    assert (looked_up.role, looked_up.num_bytes) == ("embedding", 6 * (128 + 256))


@pytest.fixture(scope="module")
def loaded(shared: Path) -> LoadedEngine:
    return load_engine(EngineConfig(model=str(shared / "weights" / "stories260K"), max_num_seqs=4, max_model_len=64))


@pytest.mark.parametrize("context", [1, 17])
def test_the_sum_over_a_step_is_the_models_cost(loaded: LoadedEngine, context: int) -> None:
    ops = build_decoder(loaded.spec, loaded.parameters, 64).ops
    costs = [op_cost(op, StepShape((1,), (context,)), loaded.kv_spec) for op in ops]
    whole = model_cost(loaded.spec, loaded.parameters, loaded.kv_spec)
    products = sum(one.operations for op, one in zip(ops, costs, strict=True) if isinstance(op, ir.Linear))
    attended = sum(one.operations for one in costs if one.role == "attention")
    assert products + attended == whole.decode_operations(context)
    assert {one.role for one in costs} >= {"qkv", "o", "gate_up", "down", "lm_head", "attention", "norms", "residual"}


def test_a_gpu_moves_half_the_bytes_of_rows_and_multiplies_codes_as_bfloat16() -> None:
    step, spec = StepShape((4,), (4,)), KVSpec(1, 1, 32, 16, "int8_per_token_head")
    program = Program()
    x = program.given_states(64)
    weight = Weight("layers.0.q", (32, 64), "q4_0", 1152, None)
    program.linear(x, [weight])
    program.add(x, x)
    _, product, total = program.ops
    host, device = (op_cost(product, step, spec, numbers) for numbers in (HOST, DEVICE))
    assert (host.unit, device.unit) == ("int8", "bf16")
    assert (host.num_bytes, device.num_bytes) == (1152 + 4 * 96 * 4, 1152 + 4 * 96 * 2)
    assert op_cost(total, step, spec, DEVICE).num_bytes == 3 * 4 * 64 * 2
    units = [DEVICE.unit(layout) for layout in ("f32", "bf16", "int8_channel", "q6_k", "fp8_e4m3")]
    assert units == ["f32", "bf16", "int8", "bf16", "fp8"]
    assert (numbers_of("cuda"), numbers_of("cpu")) == (DEVICE, HOST)
