"""Neighbours in a program that one kernel computes: found once, when the program is compiled.

A sum and its norm: the end of a layer's half and the beginning of the next one. A norm, with its sum or without, or a
gated activation, and the 8 bits a number that the products behind it read. Queries and keys turned by their
positions, keys and values written: three launches of a layer. What a kernel saves is launches and a trip of the
values through memory; numbers are rounded to the type between operations as they are without it.

The codes of what attention gives stay a launch of their own. A token's scale is the largest of all heads, which are
programs of their own: the merge of parts has one for each head and row, and a context of one part never comes to it.
One program for all of a token's heads would leave all but 1 of an H100's 132 processors idle at one token, to save
8 KB written, 8 read (32 heads of 128 in 16 bits: 5 ns of its memory's time) and one launch in about ten of a layer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from vivace.backends.cuda.last_uses import last_uses, values_of
from vivace.backends.cuda.matrix import Fp8RowMatrix, Int8RowMatrix
from vivace.ops import program as ir
from vivace.ops.program import Program, Weight


@dataclass(frozen=True, slots=True)
class AddNorm:
    """A sum, and the norm of all of its columns; the sum may be read by others too."""

    add: ir.Add
    norm: ir.RmsNorm


@dataclass(frozen=True, slots=True)
class CodedNorm:
    """A norm of all columns, and the sum that it is of where that comes right before it. Only products with matrices
    of `encoding` read the norm: they round its rows to 8 bits, so that nobody asks for the norm itself."""

    add: ir.Add | None
    norm: ir.RmsNorm
    encoding: str


@dataclass(frozen=True, slots=True)
class CodedGate:
    """A gated activation that only products with matrices of `encoding` read, as `CodedNorm`."""

    gate: ir.GatedActivation
    encoding: str


@dataclass(frozen=True, slots=True)
class RopeWrite:
    """Queries and keys by the same angles, and the cache's keys and values. Nothing else reads the turned keys."""

    q: ir.Rope
    k: ir.Rope
    write: ir.KVWrite


Fused = AddNorm | CodedNorm | CodedGate | RopeWrite


@dataclass(frozen=True, slots=True)
class Stage:
    """One operation, or several that a kernel may compute together. `dying[i]`: what nothing reads after `ops[i]`."""

    ops: tuple[ir.Op, ...]
    dying: tuple[list[int], ...]
    fused: Fused | None = None


def stages(program: Program) -> list[Stage]:
    """The program's operations in their order."""
    dying, readers = last_uses(program), _Readers(program)
    found, at = [], 0
    while at < len(program.ops):
        fused, count = _rope_write(program.ops[at : at + 3], readers) or _coded(program.ops[at : at + 2], readers)
        found.append(Stage(tuple(program.ops[at : at + count]), tuple(dying[at : at + count]), fused))
        at += count
    return found


class _Readers:
    """Which operations read a buffer. What a run gives back has a reader more, who is none of them."""

    def __init__(self, program: Program) -> None:
        self._of: defaultdict[int, list[ir.Op | None]] = defaultdict(list)
        for op in program.ops:
            for value in values_of(op):
                if value is not getattr(op, "out", None):
                    self._of[value.buffer].append(op)
        for given in (program.output, program.states):
            if given is not None:
                self._of[given.buffer].append(None)

    def of(self, value: ir.Value) -> list[ir.Op | None]:
        return self._of[value.buffer]


def _coded(ops: list[ir.Op], readers: _Readers) -> tuple[Fused | None, int]:
    """What begins with the first of them, and of how many operations it is."""
    match ops:
        case [ir.Add() as add, ir.RmsNorm(groups=1) as norm] if norm.x == add.out:
            encoding = _encoding_read(norm, readers)
            return AddNorm(add, norm) if encoding is None else CodedNorm(add, norm, encoding), 2
        case [ir.RmsNorm(groups=1) as norm, *_]:
            encoding = _encoding_read(norm, readers)
            return None if encoding is None else CodedNorm(None, norm, encoding), 1
        case [ir.GatedActivation() as gate, *_]:
            encoding = _encoding_read(gate, readers)
            return None if encoding is None else CodedGate(gate, encoding), 1
    return None, 1


def _encoding_read(rows: ir.RmsNorm | ir.GatedActivation, readers: _Readers) -> str | None:
    """That of all the matrices that the rows are multiplied with, if they round them to 8 bits in the same way."""
    found: set[str | None] = set()
    for op in readers.of(rows.out):
        if not isinstance(op, ir.Linear) or op.x != rows.out:
            return None
        found.update(_token_encoding(weight) for weight in op.weights)
    return found.pop() if len(found) == 1 else None


def _token_encoding(weight: Weight) -> str | None:
    matrix = weight.data
    if not isinstance(matrix, Int8RowMatrix | Fp8RowMatrix) or matrix.order is not None:
        return None
    return matrix.encoding


def _rope_write(ops: list[ir.Op], readers: _Readers) -> tuple[RopeWrite, int] | None:
    match ops:
        case [ir.Rope() as q, ir.Rope() as k, ir.KVWrite() as write] if (
            write.k == k.out
            and readers.of(k.out) == [write]
            and (q.table, q.head_dim) == (k.table, k.head_dim)
            and q.out.buffer not in (k.x.buffer, write.v.buffer)
        ):
            return RopeWrite(q, k, write), 3
    return None
