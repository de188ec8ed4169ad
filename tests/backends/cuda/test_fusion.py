"""Which neighbours of a program are computed together."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the backend is torch's")

from vivace.backends.cuda.backend import CudaBackend
from vivace.backends.cuda.fusion import AddNorm, CodedGate, CodedNorm, RopeWrite, stages
from vivace.backends.cuda.last_uses import last_uses
from vivace.formats.fp8_rows import quantize_fp8
from vivace.ops.program import Program, Value, Weight

WIDTH = 16


def weight(*shape: int) -> Weight:
    return Weight("weight", shape, "f32", 0, None)


def layer(program: Program, x: Value, table: Value) -> Value:
    qkv = program.linear(program.rms_norm(x, weight(WIDTH), 1e-5), [weight(3 * WIDTH, WIDTH)])
    q, k, v = (qkv.columns(start, start + WIDTH) for start in (0, WIDTH, 2 * WIDTH))
    q, k = program.rope(q, table, 8), program.rope(k, table, 8)
    program.kv_write(k, v, 0)
    heads = program.attention(q, 0, num_heads=2, num_kv_heads=2, head_dim=8, scale=1.0)
    x = program.add(x, program.linear(heads, [weight(WIDTH, WIDTH)]))
    normed = program.rms_norm(x, weight(WIDTH), 1e-5)
    return program.add(x, program.linear(normed, [weight(WIDTH, WIDTH)]))


def test_a_layer() -> None:
    program = Program()
    table = program.rope_table(weight(4))
    x = program.embedding(weight(9, WIDTH))
    for _ in range(2):
        x = layer(program, x, table)
    program.output = program.rms_norm(program.gather_rows(x), weight(WIDTH), 1e-5)
    found = stages(program)
    fused = [type(stage.fused) for stage in found if stage.fused is not None]
    assert fused == [RopeWrite, AddNorm, AddNorm, RopeWrite, AddNorm]  # rows are gathered before the last norm
    assert [op for stage in found for op in stage.ops] == program.ops
    assert [buffers for stage in found for buffers in stage.dying] == last_uses(program)


def fp8_matrix(num_rows: int) -> Weight:
    return CudaBackend("cpu").pack("matrix", quantize_fp8("matrix", np.ones((num_rows, WIDTH), np.float32)))


def test_norms_that_8_bit_products_read() -> None:
    """With a sum before it and without; two products of one norm; not where anybody else reads the norm."""
    program = Program()
    x = program.embedding(weight(9, WIDTH))
    first = program.rms_norm(x, weight(WIDTH), 1e-5)
    total = program.add(x, program.linear(first, [fp8_matrix(WIDTH)]))
    second = program.rms_norm(total, weight(WIDTH), 1e-5)
    parts = [program.linear(second, [fp8_matrix(WIDTH), fp8_matrix(WIDTH)]).columns(0, WIDTH) for _ in range(2)]
    third = program.rms_norm(program.add(*parts), weight(WIDTH), 1e-5)
    program.add(third, program.linear(third, [fp8_matrix(WIDTH)]))
    fourth = program.rms_norm(total, weight(WIDTH), 1e-5)
    program.linear(fourth, [fp8_matrix(WIDTH), weight(WIDTH, WIDTH)])
    program.states = program.rms_norm(total, weight(WIDTH), 1e-5)
    program.output = program.linear(program.states, [fp8_matrix(WIDTH)])
    found = [stage.fused for stage in stages(program) if stage.fused is not None]
    assert [type(one) for one in found] == [CodedNorm, CodedNorm, AddNorm]
    assert [one.encoding for one in found if isinstance(one, CodedNorm)] == ["fp8_channel"] * 2
    assert [one.add is None for one in found if isinstance(one, CodedNorm)] == [True, False]


def test_gated_activations_that_8_bit_products_read() -> None:
    """Not where anybody else reads one, or a product takes them as they come."""
    program = Program()
    x = program.embedding(weight(9, 2 * WIDTH))
    first, second, third = (program.gated_activation(x, "silu") for _ in range(3))
    program.linear(first, [fp8_matrix(WIDTH), fp8_matrix(WIDTH)])
    program.add(program.linear(second, [fp8_matrix(WIDTH)]), second)
    program.output = program.linear(third, [weight(WIDTH, WIDTH)])
    found = [stage.fused for stage in stages(program)]
    assert [type(one) for one in found if one is not None] == [CodedGate]
    assert found[1] == CodedGate(program.ops[1], "fp8_channel")  # type: ignore[arg-type]


def test_keys_that_are_read_again_are_kept() -> None:
    program = Program()
    table = program.rope_table(weight(4))
    x = program.embedding(weight(9, WIDTH))
    q, k = program.rope(x, table, 8), program.rope(x, table, 8)
    program.kv_write(k, x, 0)
    program.output = program.add(k, q)
    assert all(stage.fused is None for stage in stages(program))


def test_what_is_turned_otherwise_stays_apart() -> None:
    program = Program()
    tables = program.rope_table(weight(4)), program.rope_table(weight(4))
    x = program.embedding(weight(9, WIDTH))
    q, k = (program.rope(x, table, 8) for table in tables)
    program.kv_write(k, x, 0)
    program.output = q
    assert all(stage.fused is None for stage in stages(program))


def test_a_norm_by_heads_or_of_another_value_stays_apart() -> None:
    program = Program()
    x = program.embedding(weight(9, WIDTH))
    total = program.add(x, x)
    program.rms_norm(total, weight(8), 1e-5, groups=2)
    program.add(total, x)
    program.output = program.rms_norm(total, weight(WIDTH), 1e-5)
    assert all(stage.fused is None for stage in stages(program))
