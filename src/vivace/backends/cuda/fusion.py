"""Neighbours in a program that one kernel computes: found once, when the program is compiled.

A sum and its norm: the end of a layer's half and the beginning of the next one. Queries and keys turned by their
positions, keys and values written: three launches of a layer. What a kernel saves is launches and a trip of the
values through memory; numbers are rounded to the type between operations as they are without it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vivace.backends.cuda.last_uses import last_uses, values_of
from vivace.ops import program as ir
from vivace.ops.program import Program


@dataclass(frozen=True, slots=True)
class AddNorm:
    """A sum, and the norm of all of its columns; the sum may be read by others too."""

    add: ir.Add
    norm: ir.RmsNorm


@dataclass(frozen=True, slots=True)
class RopeWrite:
    """Queries and keys by the same angles, and the cache's keys and values. Nothing else reads the turned keys."""

    q: ir.Rope
    k: ir.Rope
    write: ir.KVWrite


Fused = AddNorm | RopeWrite


@dataclass(frozen=True, slots=True)
class Stage:
    """One operation, or several that a kernel may compute together. `dying[i]`: what nothing reads after `ops[i]`."""

    ops: tuple[ir.Op, ...]
    dying: tuple[list[int], ...]
    fused: Fused | None = None


def stages(program: Program) -> list[Stage]:
    """The program's operations in their order."""
    dying = last_uses(program)
    readers = Counter(value.buffer for op in program.ops for value in values_of(op))
    found, at = [], 0
    while at < len(program.ops):
        fused = _rope_write(program.ops[at : at + 3], readers) or _add_norm(program.ops[at : at + 2])
        count = 1 if fused is None else 2 if isinstance(fused, AddNorm) else 3
        found.append(Stage(tuple(program.ops[at : at + count]), tuple(dying[at : at + count]), fused))
        at += count
    return found


def _add_norm(ops: list[ir.Op]) -> AddNorm | None:
    match ops:
        case [ir.Add() as add, ir.RmsNorm(groups=1) as norm] if norm.x == add.out:
            return AddNorm(add, norm)
    return None


def _rope_write(ops: list[ir.Op], readers: Counter[int]) -> RopeWrite | None:
    match ops:
        case [ir.Rope() as q, ir.Rope() as k, ir.KVWrite() as write] if (
            write.k == k.out
            and readers[k.out.buffer] == 2  # its own operation names it, and the write
            and (q.table, q.head_dim) == (k.table, k.head_dim)
            and q.out.buffer not in (k.x.buffer, write.v.buffer)
        ):
            return RopeWrite(q, k, write)
    return None
