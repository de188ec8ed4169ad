"""Runs a kernel's instructions over all threads of several programs side by side.

A register is an array of a value a thread. Threads that wait at different blocks run lowest block first, which brings
them together again behind branches and loops as compilers lay them out; what a barrier, or an instruction of a whole
warp, then misses of its threads is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.memory import GlobalMemory, SharedMemory
from ptx.source import Instruction, PtxError, Source

Step = Callable[["Machine"], None]


class _Unwritten:
    """In the place of a register that no instruction wrote."""

    def __getattr__(self, name: str) -> Any:
        raise PtxError("reads a register that was never written")


UNWRITTEN: Any = _Unwritten()


class Machine:
    """`active`: bool [threads], None where all are."""

    def __init__(
        self,
        source: Source,
        parameters: dict[str, np.ndarray],
        ids: np.ndarray,
        grid: tuple[int, int, int],
        memory: GlobalMemory,
        shared_bytes: int,
        num_warps: int,
        *,
        must_wait: bool = False,
    ) -> None:
        """`ids` [programs, 3]. `must_wait`: for the kernels before this one, as its launch does not."""
        programs, per_program = len(ids), 32 * num_warps
        self.memory = memory
        self.shared = SharedMemory(programs, shared_bytes, -(-num_warps // 4))
        self.has_waited = np.full(programs * per_program, not must_wait)
        self.parameters = parameters
        self.num_threads = programs * per_program
        self.threads = np.arange(self.num_threads)
        self.programs = self.threads // per_program
        self.grid_numbers = np.ravel_multi_index(tuple(ids.T), grid).astype(np.int32)[self.programs]
        self.warps = self.threads % per_program // 32
        self.threads_per_program = per_program
        self.registers: list[np.ndarray] = [UNWRITTEN] * len(source.registers)
        self.active: np.ndarray | None = None
        self.live = np.ones(self.num_threads, np.bool_)
        self.copies: list[Any] = []  # asynchronous ones that did not arrive
        self.committed = np.zeros(self.num_threads, np.int64)  # groups of them
        self.products: list[Any] = []  # asynchronous ones that were not waited for
        self.committed_products = np.zeros(-(-self.num_threads // 128), np.int64)
        self.special = {
            "%laneid": (self.threads % 32).astype(np.uint32),
            "%warpid": self.warps.astype(np.uint32),
            "%tid.x": (self.threads % per_program).astype(np.uint32),
            "%ntid.x": np.array(per_program, np.uint32),
        }
        for at, axis in enumerate("xyz"):
            self.special[f"%ctaid.{axis}"] = ids[self.programs, at].astype(np.uint32)
            self.special[f"%nctaid.{axis}"] = np.array(grid[at], np.uint32)

    def chosen(self) -> np.ndarray:
        """Numbers of the active threads."""
        return self.threads if self.active is None else np.flatnonzero(self.active)

    def put(self, index: int, raw: np.ndarray) -> None:
        """Writes a register of the active threads."""
        if raw.shape != self.threads.shape:
            raw = np.broadcast_to(raw, self.threads.shape)
        if self.active is not None:
            old = self.registers[index]
            raw = np.where(self.active, raw, np.zeros_like(raw) if old is UNWRITTEN else old)
        self.registers[index] = raw

    def whole_warps(self, instruction: Instruction) -> None:
        """Instructions that threads of a warp do together find all of them."""
        if self.active is not None:
            by_warp = self.active.reshape(-1, 32)
            if (by_warp.any(1) != by_warp.all(1)).any():
                raise instruction.error("threads of a warp are elsewhere")

    def reach_global(self, instruction: Instruction) -> np.ndarray:
        """Programs, numbered in the grid, of the active threads, which are about to access global memory."""
        chosen = self.chosen()
        if not self.has_waited[chosen].all():
            raise instruction.error("does not wait for the kernels before this one")
        numbers: np.ndarray = self.grid_numbers[chosen]
        return numbers

    def run(self, program: list[CompiledBlock]) -> None:
        """Until every thread has left."""
        waiting: dict[int, np.ndarray] = {0: self.live.copy()}
        while waiting:
            at = min(waiting)
            mask = waiting.pop(at)
            for target, part in program[at].run(self, mask):
                waiting[target] = waiting[target] | part if target in waiting else part
        if any(copy.is_open for copy in self.copies):
            raise PtxError("the kernel ended before its asynchronous copies arrived")
        if self.products:
            raise PtxError("the kernel ended before its products were done")
        if not self.has_waited.reshape(-1, self.threads_per_program).any(1).all():
            raise PtxError("a program ended without having waited for the kernels before this one")


class CompiledBlock:
    """`branch`: an instruction at its end and the block it goes to, None for one that leaves."""

    def __init__(self, number: int, steps: list[tuple[Step, Instruction]]) -> None:
        self.number = number
        self.steps = steps
        self.branch: tuple[Instruction, int | None] | None = None

    def run(self, machine: Machine, mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Blocks that threads go on with."""
        machine.active = None if mask.all() else mask
        for step, instruction in self.steps:
            try:
                step(machine)
            except PtxError as error:
                raise error if instruction.text in str(error) else instruction.error(str(error)) from None
        if self.branch is None:
            return [(self.number + 1, mask)]
        instruction, target = self.branch
        taken, rest = mask, np.zeros_like(mask)
        if instruction.predicate is not None:
            register, is_negated = instruction.predicate
            holds = machine.registers[register.index].view(np.bool_) ^ is_negated
            taken, rest = mask & holds, mask & ~holds
        if target is None:
            machine.live &= ~taken
        going = [] if target is None else [(target, taken)]
        return [(block, part) for block, part in (*going, (self.number + 1, rest)) if part.any()]


def guarded(instruction: Instruction, step: Step) -> Step:
    """The step for the threads whose predicate holds."""
    if instruction.predicate is None:
        return step
    register, is_negated = instruction.predicate

    def run(machine: Machine) -> None:
        holds = machine.registers[register.index].view(np.bool_) ^ is_negated
        before = machine.active
        mask = holds if before is None else holds & before
        if mask.any():
            machine.active = None if mask.all() else mask
            step(machine)
            machine.active = before

    return run
