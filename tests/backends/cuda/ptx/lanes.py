"""What the threads of a warp, or of a program, do together: shuffles, reductions, barriers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.machine import Machine, Step
from ptx.operands import TYPES, reader, writer
from ptx.source import Immediate, Instruction

LANES = np.arange(32, dtype=np.uint32)


def shuffle_step(instruction: Instruction) -> Step:
    """As PTX defines the segment of a warp that a lane may read: by bits 8 to 12 and 0 to 4 of the third operand."""
    _, _, way, _ = instruction.parts
    target, source, offset, clamp, members = instruction.operands
    _check_members(instruction, members)
    read, by, limit = (reader(one, "b32") for one in (source, offset, clamp))
    write = writer(target, "b32")

    def run(machine: Machine) -> None:
        machine.whole_warps(instruction)
        values = np.broadcast_to(read(machine), machine.threads.shape)
        lane = machine.threads % 32
        count, bound = by(machine).astype(np.int64) & 31, limit(machine).astype(np.int64)
        segment = bound >> 8 & 31
        last, first = (lane & segment) | (bound & 31 & ~segment), lane & segment
        chosen = {"up": lane - count, "down": lane + count, "bfly": lane ^ count, "idx": first | (count & ~segment)}[
            way
        ]
        is_there = chosen >= last if way == "up" else chosen <= last
        write(machine, values[machine.threads - lane + np.where(is_there, chosen, lane)])

    return run


REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


def reduce_step(instruction: Instruction) -> Step:
    """redux.sync over the lanes that a mask names, which all name the same ones."""
    _, _, name, kind = instruction.parts
    target, source, members = instruction.operands
    read, write, mask = reader(source, kind), writer(target, kind), reader(members, "b32")
    reduction = REDUCTIONS[name]

    def run(machine: Machine) -> None:
        machine.whole_warps(instruction)
        values = np.broadcast_to(read(machine), machine.threads.shape).reshape(-1, 32)
        masks = np.broadcast_to(mask(machine), machine.threads.shape).reshape(-1, 32)
        if machine.active is not None:
            masks = np.where(machine.active.reshape(-1, 32), masks, np.uint32(0))
        result = np.zeros_like(values)
        for named in np.unique(masks[masks != 0]):
            lanes = named >> LANES & 1 == 1
            warps = (masks == named).any(1)
            if ((masks[warps] == named) != lanes).any():
                raise instruction.error("lanes of a warp name different ones")
            total = reduction.reduce(values[warps][:, lanes], axis=1, dtype=TYPES[kind])
            result[np.ix_(warps, lanes)] = total[:, None]
        write(machine, result.reshape(-1))

    return run


def _check_members(instruction: Instruction, members: object) -> None:
    if not isinstance(members, Immediate) or members.value & 0xFFFFFFFF != 0xFFFFFFFF:
        raise instruction.error("some lanes of a warp alone are not supported")


def barrier_step(instruction: Instruction) -> Step:
    """bar.sync 0: of all threads of a program that did not leave; bar.warp.sync: of a warp."""
    if instruction.parts[1] == "warp":
        return lambda machine: machine.whole_warps(instruction)
    if instruction.parts not in (("bar", "sync"), ("barrier", "sync")) or len(instruction.operands) > 1:
        raise instruction.error("not supported")

    def run(machine: Machine) -> None:
        active = machine.live if machine.active is None else machine.active
        here = active.reshape(-1, machine.threads_per_program)
        there = machine.live.reshape(-1, machine.threads_per_program)
        programs = here.any(1)
        if (there & ~here)[programs].any():
            raise instruction.error("threads of the program are elsewhere")
        machine.shared.pass_barrier(programs)

    return run


def fence_step(instruction: Instruction) -> Step:
    """Writes are seen in the order of the program here, but those that products of four warps are to read."""
    if instruction.parts[1:3] == ("proxy", "async"):
        return lambda machine: machine.shared.pass_fence(np.unique(machine.programs[machine.chosen()]))
    return lambda _: None


STEPS: dict[str, Callable[[Instruction], Step]] = {
    "shfl": shuffle_step,
    "redux": reduce_step,
    "bar": barrier_step,
    "barrier": barrier_step,
    "fence": fence_step,
}
