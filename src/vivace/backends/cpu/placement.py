"""Places a program's buffers in one arena, so that buffers never alive together share memory.

A decoder layer then works in a few buffers that stay in the caches, however many layers there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from vivace.core.errors import EngineError
from vivace.ops.backend import StepLimits
from vivace.ops.program import Add, KVWrite, Op, Program, RmsNorm, Rope, Rows, Scale, Softcap, Value

ALIGNMENT_FLOATS = 16  # a cache line

# Rows a multiple of 4 KiB apart share the sets of the first-level cache, and at 64 KiB two sets of the second: a tile
# of outputs evicts itself. A line between them brought products of 32 rows x 16384 outputs from 555 to 660 GOP/s.
_CACHE_PERIOD_FLOATS = 1024

# Operations whose kernels read an element, or a row's statistics, before they write it.
_IN_PLACE = (Add, RmsNorm, Rope, Scale, Softcap)


@dataclass(slots=True)
class _Arena:
    """Free intervals [start, stop) in floats, sorted and never adjacent; the arena grows at its end."""

    size: int = 0
    free: list[tuple[int, int]] = field(default_factory=list)

    def take(self, size: int) -> int:
        """Best fit."""
        fitting = [interval for interval in self.free if interval[1] - interval[0] >= size]
        if not fitting:
            start = self.size
            if self.free and self.free[-1][1] == self.size:
                start = self.free.pop()[0]
            self.size = start + size
            return start
        start, stop = min(fitting, key=lambda interval: interval[1] - interval[0])
        self.free.remove((start, stop))
        if stop - start > size:
            self._insert(start + size, stop)
        return start

    def give(self, start: int, size: int) -> None:
        self._insert(start, start + size)

    def _insert(self, start: int, stop: int) -> None:
        merged: list[tuple[int, int]] = []
        for interval in sorted([*self.free, (start, stop)]):
            if merged and merged[-1][1] == interval[0]:
                merged[-1] = (merged[-1][0], interval[1])
            else:
                merged.append(interval)
        self.free = merged


@dataclass(frozen=True, slots=True)
class Placement:
    """`offsets[buffer]` is where the buffer begins; both in floats."""

    offsets: dict[int, int]
    num_floats: int


def place_buffers(program: Program, limits: StepLimits) -> Placement:
    """Offsets of all buffers for the largest step. Raises `EngineError` if the program has no output."""
    last_use = _last_uses(program)
    arena = _Arena()
    offsets: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for index, op in enumerate(program.ops):
        dying = {value.buffer for value in operands(op) if last_use[value.buffer] == index}
        if not isinstance(op, KVWrite):
            out = op.out
            heir = _heir(op, dying)
            sizes[out.buffer] = _buffer_floats(out, limits)
            if heir is not None:
                offsets[out.buffer] = offsets[heir]
                dying.discard(heir)
            else:
                offsets[out.buffer] = arena.take(sizes[out.buffer])
            if out.buffer not in last_use:
                dying.add(out.buffer)  # computed and never read
        for buffer in dying:
            arena.give(offsets[buffer], sizes[buffer])
    return Placement(offsets, arena.size)


def row_stride(value: Value) -> int:
    """Floats between two rows of the buffer of `value`. Sampled rows leave the program: they stay contiguous."""
    collides = value.rows is Rows.TOKENS and value.stride % _CACHE_PERIOD_FLOATS == 0
    return value.stride + (ALIGNMENT_FLOATS if collides else 0)


def operands(op: Op) -> Iterator[Value]:
    """The values that an operation reads."""
    for attribute in fields(op):
        value = getattr(op, attribute.name)
        if isinstance(value, Value) and attribute.name != "out":
            yield value


def _last_uses(program: Program) -> dict[int, int]:
    if program.output is None:
        raise EngineError("the program has no output")
    last_use: dict[int, int] = {}
    for index, op in enumerate(program.ops):
        for value in operands(op):
            last_use[value.buffer] = index
    for kept in (program.output, program.states):
        if kept is not None:
            last_use[kept.buffer] = len(program.ops)
    return last_use


def _heir(op: Op, dying: set[int]) -> int | None:
    """The dying operand whose memory the output may take over: one of the same shape, read element by element."""
    if not isinstance(op, _IN_PLACE):
        return None
    candidates = [op.x, op.y] if isinstance(op, Add) else [op.x]
    for value in candidates:
        same_shape = (value.offset, value.stride, value.rows) == (0, op.out.stride, op.out.rows)
        if value.buffer in dying and same_shape and value.width == op.out.width:
            return value.buffer
    return None


def _buffer_floats(value: Value, limits: StepLimits) -> int:
    rows = limits.max_tokens if value.rows is Rows.TOKENS else limits.max_sampled
    return math.ceil(rows * row_stride(value) / ALIGNMENT_FLOATS) * ALIGNMENT_FLOATS
