"""cvt: between integers, floats, and floats of 8 and 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx.arithmetic import HALVES
from ptx.floats import E4M3, e4m3_bits, flushed, narrowed, widened
from ptx.machine import Step
from ptx.operands import TYPES, kind_of, reader, writer
from ptx.source import Instruction

WHOLE = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}
ROUNDINGS = {"rn", "rna", *WHOLE}
REST = {"satfinite", "ftz"}


def convert_step(instruction: Instruction) -> Step:
    _, *modifiers, to, kind = instruction.parts
    kind_of(instruction, to), kind_of(instruction, kind)
    if unknown := set(modifiers) - ROUNDINGS - REST:
        raise instruction.error(f"no modifier {', '.join(unknown)}")
    if to.endswith("x2") or kind.endswith("x2"):
        return _pair_step(instruction, to, kind)
    target, source = instruction.operands
    read, write = reader(source, kind), writer(target, to)

    def run(machine: Any) -> None:
        values = read(machine)
        if kind in HALVES:
            values = widened(values, kind)
        if "ftz" in modifiers:
            values = flushed(values)
        for modifier in modifiers:
            if modifier in WHOLE and values.dtype.kind == "f":
                values = WHOLE[modifier](values)
        write(machine, _converted(values, to))

    return run


def _converted(values: np.ndarray, to: str) -> np.ndarray:
    wanted = np.dtype(TYPES[to])
    if to in HALVES:
        return narrowed(values if values.dtype.kind == "f" else values.astype(np.float64), to)
    if to == "tf32":
        return (values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    if values.dtype.kind != "f" or wanted.kind == "f":
        return values.astype(wanted)
    limits = np.iinfo(wanted)
    nothing = wanted.type(limits.min) if wanted.itemsize == 8 or values.itemsize == 8 else wanted.type(0)
    exact = values.astype(np.float64)
    inside = np.where((exact >= limits.min) & (exact < float(limits.max) + (wanted.itemsize < 8)), exact, 0)
    result = np.where(exact < limits.min, limits.min, np.where(exact >= float(limits.max), limits.max, 0))
    kept = np.where(inside == exact, inside.astype(wanted), result.astype(wanted))
    return np.where(np.isnan(exact), nothing, kept)


def _pair_step(instruction: Instruction, to: str, kind: str) -> Step:
    """Two of float32, the first one to the high half; or two of e4m3."""
    target, *sources = instruction.operands
    reads, write = [reader(source, kind) for source in sources], writer(target, to)

    def run(machine: Any) -> None:
        if kind == "e4m3x2":
            pairs = E4M3[np.ascontiguousarray(reads[0](machine))[..., None].view(np.uint8)]
        elif kind == "f32":
            high, low = np.broadcast_arrays(*(read(machine) for read in reads))
            pairs = np.stack([low, high], -1)
        else:
            pairs = widened(reads[0](machine), kind)
        if to == "e4m3x2":
            write(machine, np.ascontiguousarray(e4m3_bits(pairs)).view(np.uint16)[..., 0])
        else:
            write(machine, narrowed(pairs, to))

    return run
