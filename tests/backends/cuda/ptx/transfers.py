"""Loads, stores and asynchronous copies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.machine import Machine, Step
from ptx.operands import TYPES, Reader, address_of, kind_of, parts_of, reader, writer
from ptx.source import RAW, Address, Immediate, Instruction, Symbol


def _space(instruction: Instruction) -> tuple[str, str]:
    """Where to, and the type; hints to caches change nothing."""
    _, space, *more, kind = instruction.parts
    unknown = [part for part in more if part not in ("v2", "v4") and not part.startswith(("L1:", "L2:"))]
    if unknown or space.split(":")[0] not in ("global", "shared", "param"):
        raise instruction.error("this way of memory access is not supported")
    return space.split(":")[0], kind_of(instruction, kind)


def load_step(instruction: Instruction) -> Step:
    space, kind = _space(instruction)
    target, source = instruction.operands
    writes = [writer(one, kind) for one in parts_of(target)]
    width = np.dtype(TYPES[kind]).itemsize
    if space == "param":
        if not isinstance(source, Address) or not isinstance(source.base, Symbol):
            raise instruction.error("no parameter")
        name = source.base.name
        return lambda machine: writes[0](machine, machine.parameters[name].astype(RAW[8 * width]).view(TYPES[kind]))
    addresses = address_of(source, "u64" if space == "global" else "u32")

    def run(machine: Machine) -> None:
        chosen = machine.chosen()
        places = addresses(machine)[chosen]
        if space == "global":
            loaded = machine.memory.load(instruction, places, width, len(writes), machine.reach_global(instruction))
        else:
            loaded = machine.shared.load(
                instruction, places, width, len(writes), machine.warps[chosen], machine.programs[chosen]
            )
        for at, write in enumerate(writes):
            column = np.ascontiguousarray(loaded[:, at])
            if len(chosen) < machine.num_threads:
                of_all = np.zeros(machine.num_threads, column.dtype)
                of_all[chosen] = column
                column = of_all
            write(machine, column.view(TYPES[kind]))

    return run


def store_step(instruction: Instruction) -> Step:
    space, kind = _space(instruction)
    target, source = instruction.operands
    reads = [reader(one, kind) for one in parts_of(source)]
    raw = RAW[8 * np.dtype(TYPES[kind]).itemsize]
    addresses = address_of(target, "u64" if space == "global" else "u32")

    def run(machine: Machine) -> None:
        chosen = machine.chosen()
        values = np.stack([np.broadcast_to(read(machine), machine.threads.shape)[chosen] for read in reads], 1).view(
            raw
        )
        places = addresses(machine)[chosen]
        if space == "global":
            machine.memory.store(instruction, places, values, machine.reach_global(instruction))
        else:
            machine.shared.store(instruction, places, values, machine.warps[chosen], machine.programs[chosen])

    return run


class _Copy:
    """What threads `threads` sent to places of shared memory, in groups; -1 of no group yet, -2 arrived."""

    def __init__(self, threads: np.ndarray, flat: np.ndarray, values: np.ndarray) -> None:
        self.threads = threads
        self.groups = np.full(len(threads), -1)
        self._flat = flat
        self._values = values

    @property
    def is_open(self) -> bool:
        return bool((self.groups != -2).any())

    def arrive(self, machine: Machine, which: np.ndarray) -> None:
        threads = self.threads[which]
        machine.shared.arrive(
            self._flat[which], self._values[which], machine.warps[threads], machine.programs[threads]
        )
        self.groups[which] = -2


def async_step(instruction: Instruction) -> Step:
    match instruction.parts[2:]:
        case ("commit_group",):
            return _commit
        case ("wait_group",):
            left = instruction.operands[0]
            if isinstance(left, Immediate):
                return _waiting(left.value)
        case ("wait_all",):
            return lambda machine: (_commit(machine), _waiting(0)(machine))[0]
        case (("ca" | "cg"), "shared" | "shared:cta", "global", *_):
            return _copying(instruction)
    raise instruction.error("not supported")


def _copying(instruction: Instruction) -> Step:
    """Zeros for what lies behind the number of bytes to read, 0 or all."""
    target, source, size, *rest = instruction.operands
    to, origin = address_of(target, "u32"), address_of(source, "u64")
    if not isinstance(size, Immediate):
        raise instruction.error("the number of bytes is not fixed")
    num_bytes, width = size.value, min(size.value, 8)
    given: Reader = reader(rest[0], "u32") if rest else lambda _: np.array(num_bytes)

    def run(machine: Machine) -> None:
        chosen = machine.chosen()
        sizes = np.broadcast_to(given(machine), machine.threads.shape)[chosen]
        is_read = sizes == num_bytes
        if (sizes[~is_read] != 0).any():
            raise instruction.error("reads a part of what it writes")
        values = np.zeros((len(chosen), num_bytes // width), RAW[8 * width])
        if is_read.any():
            places = origin(machine)[chosen][is_read]
            readers = machine.reach_global(instruction)[is_read]
            values[is_read] = machine.memory.load(instruction, places, width, num_bytes // width, readers)
        flat = machine.shared.expect(
            instruction, to(machine)[chosen], num_bytes, machine.warps[chosen], machine.programs[chosen]
        )
        machine.copies.append(_Copy(chosen, flat, values))

    return run


def _commit(machine: Machine) -> None:
    for copy in machine.copies:
        which = copy.groups == -1
        if machine.active is not None:
            which &= machine.active[copy.threads]
        copy.groups[which] = machine.committed[copy.threads[which]]
    machine.committed[machine.chosen()] += 1


def _waiting(left: int) -> Step:
    """For all but the last `left` groups of each thread."""

    def run(machine: Machine) -> None:
        for copy in machine.copies:
            which = (copy.groups >= 0) & (copy.groups < machine.committed[copy.threads] - left)
            if machine.active is not None:
                which &= machine.active[copy.threads]
            if which.any():
                copy.arrive(machine, which)
        machine.copies = [copy for copy in machine.copies if copy.is_open]

    return run


STEPS: dict[str, Callable[[Instruction], Step]] = {"ld": load_step, "st": store_step, "cp": async_step}
