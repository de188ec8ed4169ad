"""What launches add that overlap with their predecessor's end: griddepcontrol and prefetch.

A thread may only touch global memory once it has waited for the kernels before its own; asking the second-level cache
for a line changes nothing and may come before.
"""

from __future__ import annotations

from collections.abc import Callable

from ptx.machine import Machine, Step
from ptx.operands import address_of
from ptx.source import Instruction


def dependence_step(instruction: Instruction) -> Step:
    match instruction.parts[1:]:
        case ("launch_dependents",):
            return lambda _: None
        case ("wait",):
            return _wait
    raise instruction.error("not supported")


def _wait(machine: Machine) -> None:
    machine.has_waited[machine.chosen()] = True


def prefetch_step(instruction: Instruction) -> Step:
    if instruction.parts != ("prefetch", "global", "L2"):
        raise instruction.error("not supported")
    addresses = address_of(instruction.operands[0], "u64")
    return lambda machine: machine.memory.ask_for(instruction, addresses(machine)[machine.chosen()])


STEPS: dict[str, Callable[[Instruction], Step]] = {"griddepcontrol": dependence_step, "prefetch": prefetch_step}
