"""Instructions that make a thread's value of its own values: integers, floats, bits, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.floats import approximate, flushed, narrowed, widened
from ptx.machine import UNWRITTEN, Step
from ptx.operands import TYPES, WIDER, Reader, kind_of, parts_of, reader, writer
from ptx.source import Immediate, Instruction, Operand, Register, Vector

HALVES = ("f16", "bf16", "f16x2", "bf16x2")
FLOATS = (*HALVES, "f32", "f64")
MODIFIERS = {"rn", "ftz", "approx", "full", "lo", "hi", "wide", "relu"}
Function = Callable[..., Any]
NOISE = np.random.default_rng(0)


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b)


def _smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of integers towards zero."""
    if a.dtype.kind == "f":
        return a / b
    if (np.asarray(b) == 0).any():
        b = np.where(b == 0, 1, b).astype(a.dtype)  # anything, as a device answers
    return (a - np.fmod(a, b)) // b


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Rounded once: products of float32 are exact in float64; `_float_step` rounds."""
    return a.astype(np.float64) * b + c


PLAIN: dict[str, Function] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "mad": lambda a, b, c: a * b + c,
    "div": _quotient, "rem": lambda a, b: np.fmod(a, np.where(b == 0, 1, b)), "max": _larger, "min": _smaller,
    "neg": lambda a: -a, "abs": np.abs, "fma": _fused,
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "not": lambda a: ~a,
}  # fmt: skip

# In float64, and how many last places a device may be off by.
APPROXIMATE: dict[str, tuple[Function, int]] = {
    "div": (lambda a, b: a / b, 2),
    "ex2": (np.exp2, 2),
    "lg2": (np.log2, 2),
    "rcp": (lambda a: 1 / a, 1),
    "sqrt": (np.sqrt, 1),
    "rsqrt": (lambda a: 1 / np.sqrt(a), 2),
    "tanh": (np.tanh, 1 << 12),
}
EXACT_ROOTS = {"sqrt": np.sqrt, "rcp": lambda a: 1 / a}

COMPARISONS: dict[str, Function] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def plain_step(instruction: Instruction) -> Step:
    name, *modifiers, last = instruction.parts
    kind = kind_of(instruction, last)
    unknown = set(modifiers) - MODIFIERS
    if unknown:
        raise instruction.error(f"no modifier {', '.join(unknown)}")
    if kind in FLOATS and kind not in ("f32", "f64"):
        return _half_step(instruction, kind)
    if kind in ("f32", "f64"):
        return _float_step(instruction, kind, modifiers)
    if "wide" in modifiers:
        return _wide_step(instruction, kind)
    if "hi" in modifiers:
        wide, size = np.dtype(TYPES[WIDER[kind]]), 8 * np.dtype(TYPES[kind]).itemsize
        return _stored(instruction, kind, lambda a, b: (a.astype(wide) * b.astype(wide) >> size).astype(TYPES[kind]))
    function = PLAIN[name]
    if "relu" in modifiers:
        return _stored(instruction, kind, lambda *given: np.maximum(function(*given), 0))
    return _stored(instruction, kind, function)


def _stored(instruction: Instruction, kind: str, function: Function) -> Step:
    """All operands and the result of one type."""
    target, *sources = instruction.operands
    reads, write = [reader(source, kind) for source in sources], writer(target, kind)
    return lambda machine: write(machine, function(*(read(machine) for read in reads)))


def _float_step(instruction: Instruction, kind: str, modifiers: list[str]) -> Step:
    name = instruction.parts[0]
    if name in APPROXIMATE and ("approx" in modifiers or "full" in modifiers):
        exact, units = APPROXIMATE[name]

        def function(*given: np.ndarray) -> np.ndarray:
            return approximate(np.asarray(exact(*(one.astype(np.float64) for one in given))), units)
    else:
        function = EXACT_ROOTS.get(name) or PLAIN[name]
        if name in ("fma", "mad"):

            def function(*given: np.ndarray) -> np.ndarray:
                return _fused(*given).astype(TYPES[kind])

    if "ftz" not in modifiers:
        return _stored(instruction, kind, function)
    return _stored(instruction, kind, lambda *given: flushed(function(*(flushed(one) for one in given))))


def _half_step(instruction: Instruction, kind: str) -> Step:
    """In float32, or float64 for what is rounded once behind two operations, then rounded to 16 bits."""
    name = instruction.parts[0]
    if name in ("neg", "abs"):  # bits alone: what is no number stays so
        sign = 0x8000 if TYPES[kind] is np.uint16 else 0x80008000
        bits = np.array(sign, TYPES[kind])
        return _stored(instruction, kind, (lambda a: a ^ bits) if name == "neg" else (lambda a: a & ~bits))
    function = PLAIN[name]
    return _stored(
        instruction, kind, lambda *given: narrowed(np.asarray(function(*(widened(one, kind) for one in given))), kind)
    )


def _wide_step(instruction: Instruction, kind: str) -> Step:
    target, *sources = instruction.operands
    wide = np.dtype(TYPES[WIDER[kind]])
    a, b = (reader(source, kind) for source in sources[:2])
    write = writer(target, WIDER[kind])
    if len(sources) == 2:
        return lambda machine: write(machine, a(machine).astype(wide) * b(machine).astype(wide))
    c = reader(sources[2], WIDER[kind])
    return lambda machine: write(machine, a(machine).astype(wide) * b(machine).astype(wide) + c(machine))


def shift_step(instruction: Instruction) -> Step:
    """By 32-bit numbers; what is as wide as the value or more leaves its sign, or nothing."""
    name, kind = instruction.parts
    target, source, amount = instruction.operands
    read, by, write = reader(source, kind), reader(amount, "u32"), writer(target, kind)
    wanted = np.dtype(TYPES[kind])
    function = np.left_shift if name == "shl" else np.right_shift
    most = 8 * wanted.itemsize

    def run(machine: Any) -> None:
        count = by(machine)
        shifted = function(read(machine), np.minimum(count, most - 1).astype(wanted))
        if wanted.kind == "u":
            shifted = np.where(count >= most, wanted.type(0), shifted)
        write(machine, shifted)

    return run


def field_step(instruction: Instruction) -> Step:
    """bfe: bits from a position on."""
    kind = instruction.parts[1]
    target, source, *rest = instruction.operands
    read, write = reader(source, kind), writer(target, kind)
    if not all(isinstance(one, Immediate) for one in rest):
        raise instruction.error("a field that is not fixed is not supported")
    position, length = (one.value & 255 for one in rest if isinstance(one, Immediate))
    size = 8 * np.dtype(TYPES[kind]).itemsize
    length = min(length, size - position)
    up, down = TYPES[kind](size - position - length), TYPES[kind](size - length)
    return lambda machine: write(machine, read(machine) << up >> down)


def permute_step(instruction: Instruction) -> Step:
    """prmt: four bytes out of eight, or the sign of one. Compilers pack bytes with it, of which some may be of a
    register that nothing wrote: noise, so that results show where one is used."""
    target, *sources = instruction.operands
    low, high = (_noisy_reader(source) for source in sources[:2])
    control = reader(sources[2], "b32")
    write = writer(target, "b32")

    def run(machine: Any) -> None:
        both = low(machine).astype(np.uint64) | high(machine).astype(np.uint64) << np.uint64(32)
        chosen = control(machine)
        result = np.uint32(0)
        for at in range(4):
            selector = chosen >> np.uint32(4 * at) & np.uint32(15)
            byte = (both >> (8 * (selector & np.uint32(7))).astype(np.uint64)).astype(np.uint32) & np.uint32(255)
            sign = np.where(byte >> np.uint32(7), np.uint32(255), np.uint32(0))
            result = result | np.where(selector >> np.uint32(3), sign, byte) << np.uint32(8 * at)
        write(machine, result)

    return run


def _noisy_reader(operand: Operand) -> Reader:
    read = reader(operand, "b32")

    def noisy(machine: Any) -> np.ndarray:
        if isinstance(operand, Register) and machine.registers[operand.index] is UNWRITTEN:
            noise: np.ndarray = NOISE.integers(0, 1 << 32, machine.num_threads, np.uint32)
            return noise
        return read(machine)

    return noisy


def table_step(instruction: Instruction) -> Step:
    """lop3: bit 4 a + 2 b + c of the table."""
    target, *sources, table = instruction.operands
    reads, write = [reader(source, "b32") for source in sources], writer(target, "b32")
    if not isinstance(table, Immediate):
        raise instruction.error("the table is no number")
    bits = [index for index in range(8) if table.value >> index & 1]

    def run(machine: Any) -> None:
        a, b, c = (read(machine) for read in reads)
        result = np.zeros_like(machine.threads, np.uint32)
        for index in bits:
            result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
        write(machine, result)

    return run


def count_step(instruction: Instruction) -> Step:
    """popc and clz, 32 bits of result."""
    name, kind = instruction.parts
    read, write = reader(instruction.operands[1], kind), writer(instruction.operands[0], "u32")
    size = 8 * np.dtype(TYPES[kind]).itemsize
    if name == "popc":
        return lambda machine: write(machine, np.bitwise_count(read(machine)).astype(np.uint32))
    return lambda machine: write(machine, (size - np.frexp(read(machine).astype(np.longdouble))[1]).astype(np.uint32))


def select_step(instruction: Instruction) -> Step:
    kind = kind_of(instruction, instruction.parts[1])
    target, yes, no, which = instruction.operands
    a, b, holds, write = reader(yes, kind), reader(no, kind), reader(which, "pred"), writer(target, kind)
    return lambda machine: write(machine, np.where(holds(machine), a(machine), b(machine)))


def compare_step(instruction: Instruction) -> Step:
    """setp: what is no number is unlike everything, but for comparisons that end in u."""
    _, relation, *more = instruction.parts
    if len(more) != 1 and more[:-1] != ["ftz"]:
        raise instruction.error("comparisons that are combined are not supported")
    kind = kind_of(instruction, more[-1])
    target, *sources = instruction.operands
    reads, writes = [reader(source, kind) for source in sources], [writer(one, "pred") for one in parts_of(target)]
    is_float, is_pair = kind in FLOATS, kind.endswith("x2")
    if len(writes) != 1 + is_pair:
        raise instruction.error("a second result is not supported")

    def run(machine: Any) -> None:
        a, b = (read(machine) for read in reads)
        if kind in HALVES:
            a, b = widened(a, kind), widened(b, kind)
        found = compared(relation, a, b, is_float=is_float)
        for at, write in enumerate(writes):
            write(machine, found[..., at] if is_pair else found)

    return run


def compared(relation: str, a: np.ndarray, b: np.ndarray, *, is_float: bool) -> np.ndarray:
    if not is_float:
        return np.not_equal(a, b) if relation == "ne" else COMPARISONS[relation](a, b)
    is_unordered = np.isnan(a) | np.isnan(b)
    if relation in ("num", "nan"):
        return is_unordered if relation == "nan" else ~is_unordered
    base = relation.removesuffix("u")
    found = np.not_equal(a, b) if base == "ne" else COMPARISONS[base](a, b)
    return found | is_unordered if relation.endswith("u") else found & ~is_unordered


def move_step(instruction: Instruction) -> Step:
    """Values, and registers taken to pieces or put together, the low one first."""
    kind = instruction.parts[-1]
    target, source = instruction.operands
    if not isinstance(target, Vector) and not isinstance(source, Vector):
        return _stored(instruction, kind, lambda value: value)
    pieces = parts_of(target if isinstance(target, Vector) else source)
    piece = f"b{8 * np.dtype(TYPES[kind]).itemsize // len(pieces)}"
    whole = f"b{8 * np.dtype(TYPES[kind]).itemsize}"
    if isinstance(target, Vector):
        read, writes = reader(source, whole), [writer(one, piece) for one in pieces]

        def split(machine: Any) -> None:
            parts = np.ascontiguousarray(read(machine))[:, None].view(TYPES[piece])
            for at, write in enumerate(writes):
                write(machine, parts[:, at])

        return split
    reads, write = [reader(one, piece) for one in pieces], writer(target, whole)

    def join(machine: Any) -> None:
        parts = np.stack(np.broadcast_arrays(*(read(machine) for read in reads), machine.threads)[:-1], 1)
        write(machine, np.ascontiguousarray(parts.astype(TYPES[piece])).view(TYPES[whole])[:, 0])

    return join


STEPS: dict[str, Callable[[Instruction], Step]] = {
    **dict.fromkeys((*PLAIN, *APPROXIMATE), plain_step),
    **dict.fromkeys(("shl", "shr"), shift_step),
    **dict.fromkeys(("popc", "clz"), count_step),
    "bfe": field_step,
    "prmt": permute_step,
    "lop3": table_step,
    "selp": select_step,
    "setp": compare_step,
    "mov": move_step,
}
