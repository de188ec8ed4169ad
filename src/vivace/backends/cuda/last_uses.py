"""When a value's buffer may be let go."""

from __future__ import annotations

from vivace.ops import program as ir
from vivace.ops.program import Program, Value


def last_uses(program: Program) -> list[list[int]]:
    """For each operation the buffers that nothing after it reads. The output's and the states' are never let go."""
    kept = {value.buffer for value in (program.output, program.states) if value is not None}
    last: dict[int, int] = {}
    for index, op in enumerate(program.ops):
        for value in values_of(op):
            last[value.buffer] = index
    dying: list[list[int]] = [[] for _ in program.ops]
    for buffer, index in last.items():
        if buffer not in kept:
            dying[index].append(buffer)
    return dying


def values_of(op: ir.Op) -> list[Value]:
    """What it reads and what it defines."""
    fields = (getattr(op, name) for name in op.__slots__)
    return [field for field in fields if isinstance(field, Value)]
