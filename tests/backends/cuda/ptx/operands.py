"""How instructions read and write registers: as the type that the instruction names, bits as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx.machine import Machine
from ptx.memory import SHARED_BASE
from ptx.source import RAW, Address, Immediate, Instruction, Operand, PtxError, Register, Special, Symbol, Vector

Reader = Callable[[Machine], np.ndarray]
Writer = Callable[[Machine, np.ndarray], None]

TYPES: dict[str, type] = {
    "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
    "f16": np.uint16, "bf16": np.uint16, "f32": np.float32, "f64": np.float64,
    "f16x2": np.uint32, "bf16x2": np.uint32, "e4m3x2": np.uint16, "tf32": np.uint32, "pred": np.bool_,
}  # fmt: skip
WIDER = {"s8": "s16", "s16": "s32", "s32": "s64", "u8": "u16", "u16": "u32", "u32": "u64"}


def kind_of(instruction: Instruction, part: str) -> str:
    if part not in TYPES:
        raise instruction.error(f"no type {part}")
    return part


def reader(operand: Operand, kind: str) -> Reader:
    """Values of numpy's type for `kind`: of 16-bit floats, and of pairs of such, the bits."""
    wanted = np.dtype(TYPES[kind])
    match operand:
        case Register(index, kept):
            if np.dtype(kept).itemsize == wanted.itemsize:
                return lambda machine: machine.registers[index].view(wanted)
            raw = np.dtype(RAW[8 * wanted.itemsize])  # its low bits
            return lambda machine: machine.registers[index].astype(raw).view(wanted)
        case Immediate(value):
            size = 8 * wanted.itemsize
            if kind == "pred":
                fixed = np.array(value != 0)
            else:
                fixed = np.array(value & (1 << size) - 1, RAW[size]).view(wanted)
            return lambda _: fixed
        case Special(name):
            return lambda machine: machine.special[name].astype(wanted)
        case Symbol("global_smem"):
            base = np.array(SHARED_BASE, wanted)
            return lambda _: base
        case _:
            raise PtxError(f"no operand of type {kind}: {operand}")


def writer(operand: Operand, kind: str) -> Writer:
    """Takes values of numpy's type for `kind`; a wider register takes them with their sign, or with zeros."""
    given = np.dtype(TYPES[kind])
    match operand:
        case Symbol("_"):
            return lambda *_: None
        case Register(index, kept):
            size = np.dtype(kept).itemsize
            if size == given.itemsize:
                return lambda machine, values: machine.put(index, np.asarray(values, given).view(kept))
            extended = np.dtype(f"{'i' if given.kind == 'i' else 'u'}{size}")
            return lambda machine, values: machine.put(index, np.asarray(values, given).astype(extended).view(kept))
        case _:
            raise PtxError(f"nothing of type {kind} is written to {operand}")


def parts_of(operand: Operand) -> tuple[Operand, ...]:
    return operand.parts if isinstance(operand, Vector) else (operand,)


def address_of(operand: Operand, kind: str) -> Reader:
    """Of all threads, uint64 or uint32 as `kind` says."""
    if not isinstance(operand, Address):
        raise PtxError(f"no address: {operand}")
    base, offset = reader(operand.base, kind), np.array(operand.offset).astype(TYPES[kind])
    return lambda machine: np.broadcast_to(base(machine) + offset, machine.threads.shape)
