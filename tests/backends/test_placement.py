"""Buffer placement: buffers alive together never overlap, and layers share memory."""

from __future__ import annotations

import random

import pytest

from vivace.backends.cpu.placement import operands, place_buffers
from vivace.core.errors import EngineError
from vivace.ops.backend import StepLimits
from vivace.ops.program import KVWrite, Program, RmsNorm, Value, Weight

LIMITS = StepLimits(7, 3)


def weight(*shape: int) -> Weight:
    return Weight("w", shape, "f32", 0, None)


def random_program(rng: random.Random) -> Program:
    program = Program()
    values = [program.embedding(weight(9, 32))]
    for _ in range(rng.randint(1, 30)):
        x = rng.choice(values[-4:])
        choice = rng.randrange(6)
        if choice == 0:
            values.append(program.linear(x, [weight(rng.choice([8, 32, 100]), x.width)]))
        elif choice == 1:
            values.append(program.rms_norm(x, weight(x.width), 1e-6))
        elif choice == 2:
            twins = [value for value in values if value.width == x.width]
            values.append(program.add(x, rng.choice(twins)))
        elif choice == 3 and x.width % 2 == 0:
            values.append(program.gated_activation(x, "silu"))
        elif choice == 4 and x.width > 8:
            values.append(program.scale(x.columns(4, x.width), 2.0))
        else:
            program.kv_write(x, x, 0)
    program.output = program.gather_rows(rng.choice(values))
    return program


def check(program: Program) -> None:
    """Simulates the run: every buffer that is read still belongs to the value that was written there."""
    placement = place_buffers(program, LIMITS)
    contents: dict[int, int] = {}
    for op in program.ops:
        for value in operands(op):
            start, stop = extent(value, placement.offsets)
            assert all(contents[i] == value.buffer for i in range(start, stop))
        if isinstance(op, KVWrite):
            continue
        start, stop = extent(op.out, placement.offsets)
        assert stop <= placement.num_floats
        in_place = any(placement.offsets[value.buffer] == start for value in operands(op))
        read = {i for value in operands(op) for i in range(*extent(value, placement.offsets))}
        assert in_place or read.isdisjoint(range(start, stop))
        contents.update(dict.fromkeys(range(start, stop), op.out.buffer))
    assert program.output is not None
    start, stop = extent(program.output, placement.offsets)
    assert all(contents[i] == program.output.buffer for i in range(start, stop))


def extent(value: Value, offsets: dict[int, int]) -> tuple[int, int]:
    rows = LIMITS.max_tokens if value.rows.value == "tokens" else LIMITS.max_sampled
    return offsets[value.buffer], offsets[value.buffer] + rows * value.stride


@pytest.mark.parametrize("seed", range(200))
def test_living_buffers_never_overlap(seed: int) -> None:
    check(random_program(random.Random(seed)))


def test_layers_share_memory() -> None:
    sizes = []
    for num_layers in (2, 20):
        program = Program()
        x = program.embedding(weight(9, 32))
        for _ in range(num_layers):
            hidden = program.linear(program.rms_norm(x, weight(32), 1e-6), [weight(128, 32)])
            x = program.add(x, program.linear(program.gated_activation(hidden, "silu"), [weight(32, 64)]))
        program.output = x
        sizes.append(place_buffers(program, LIMITS).num_floats)
    assert sizes[0] == sizes[1]


def test_elementwise_operations_work_in_place() -> None:
    program = Program()
    x = program.embedding(weight(9, 32))
    program.output = program.scale(program.softcap(program.rms_norm(x, weight(32), 1e-6), 2.0), 3.0)
    placement = place_buffers(program, LIMITS)
    assert isinstance(program.ops[1], RmsNorm)
    assert len(set(placement.offsets.values())) == 1


def test_a_program_without_an_output_is_refused() -> None:
    with pytest.raises(EngineError, match="no output"):
        place_buffers(Program(), LIMITS)
