"""Fragments of matrices in the registers of a warp: ldmatrix, stmatrix, mma.sync.

Lane 4 g + t holds, of each register of a fragment, the elements of row g and columns from t times a register's
elements on (of a second operand: column g and rows from there on). Products sum in float32, or int32.

Shape letters: W warps, M x N x K of a product, E elements of a register.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx.floats import E4M3, widened
from ptx.machine import Machine, Step
from ptx.operands import Reader, address_of, parts_of, reader, writer
from ptx.source import Instruction, Operand

ELEMENT_BYTES = {"bf16": 2, "f16": 2, "e4m3": 1, "s8": 1, "u8": 1, "tf32": 4}


def numbers(raw: np.ndarray, kind: str) -> np.ndarray:
    """What bytes [..., n] stand for: float32, or int32 of integers."""
    if kind in ("bf16", "f16"):
        return widened(raw.view(np.uint16), kind)
    if kind == "e4m3":
        return E4M3[raw]
    if kind == "tf32":
        return (raw.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return raw.view(np.int8 if kind == "s8" else np.uint8).astype(np.int32)


def fragment(machine: Machine, reads: list[Reader], kind: str) -> np.ndarray:
    """[W, 8, 4, registers, E]: by row (or column) and place of a lane."""
    words = np.stack([np.broadcast_to(read(machine), machine.threads.shape) for read in reads], 1)
    values = numbers(words.view(np.uint8), kind)
    return values.reshape(-1, 8, 4, len(reads), 4 // ELEMENT_BYTES[kind])


def first_operand(machine: Machine, reads: list[Reader], kind: str) -> np.ndarray:
    """[W, 16, K] of four registers, rows g and g + 8 of the first half of the columns, then of the second, or of two
    registers for the first half alone."""
    parts = fragment(machine, reads, kind)
    warps, _, _, registers, each = parts.shape
    halves = parts.reshape(warps, 8, 4, registers // 2, 2, each)
    return halves.transpose(0, 4, 1, 3, 2, 5).reshape(warps, 16, registers // 2 * 4 * each)


def second_operand(machine: Machine, reads: list[Reader], kind: str) -> np.ndarray:
    """[W, K, 8]."""
    parts = fragment(machine, reads, kind)
    warps, _, _, registers, each = parts.shape
    return parts.transpose(0, 3, 2, 4, 1).reshape(warps, registers * 4 * each, 8)


def mma_step(instruction: Instruction) -> Step:
    found = re.fullmatch(
        r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col(?:\.satfinite)?\.(f32|s32)\.(\w+)\.(\w+)\.\2",
        ".".join(instruction.parts),
    )
    if found is None or found[3] not in ELEMENT_BYTES or found[4] not in ELEMENT_BYTES:
        raise instruction.error("this product is not supported")
    sums, kinds = found[2], (found[3], found[4])
    target, *sources = instruction.operands
    a, b = ([reader(one, "b32") for one in parts_of(source)] for source in sources[:2])
    c, writes = [reader(one, sums) for one in parts_of(sources[2])], [writer(one, sums) for one in parts_of(target)]

    def run(machine: Machine) -> None:
        machine.whole_warps(instruction)
        left, right = first_operand(machine, a, kinds[0]), second_operand(machine, b, kinds[1])
        product = np.matmul(left, right)  # [W, 16, 8]
        by_lane = product.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 4)
        for at, (read, write) in enumerate(zip(c, writes, strict=True)):
            write(machine, read(machine) + by_lane[:, at])

    return run


def _rows(machine: Machine, instruction: Instruction, addresses: Reader, count: int) -> tuple[np.ndarray, ...]:
    """Addresses of 8 rows of each of `count` matrices, [W' 8 count], and warps and programs of these; lanes."""
    machine.whole_warps(instruction)
    lanes = machine.chosen().reshape(-1, 32)[:, : 8 * count].reshape(-1)
    return addresses(machine)[lanes], machine.warps[lanes], machine.programs[lanes], machine.chosen()


def _matrix_shape(instruction: Instruction) -> tuple[int, bool]:
    """How many matrices of 8 x 8, and whether they are transposed."""
    found = re.fullmatch(
        r"(?:ld|st)matrix\.sync\.aligned\.m8n8\.x(\d)(\.trans)?\.shared(?::cta)?\.b16", ".".join(instruction.parts)
    )
    if found is None:
        raise instruction.error("not supported")
    return int(found[1]), found[2] is not None


def load_matrix_step(instruction: Instruction) -> Step:
    count, is_transposed = _matrix_shape(instruction)
    target, source = instruction.operands
    writes, addresses = [writer(one, "b32") for one in parts_of(target)], address_of(source, "u32")

    def run(machine: Machine) -> None:
        places, warps, programs, chosen = _rows(machine, instruction, addresses, count)
        loaded = machine.shared.load(instruction, places, 8, 2, warps, programs)
        elements = loaded.view(np.uint16).reshape(-1, count, 8, 8)
        if is_transposed:
            elements = elements.transpose(0, 1, 3, 2)
        words = np.ascontiguousarray(elements).view(np.uint32).reshape(-1, count, 32)
        for at, write in enumerate(writes):
            of_all = np.zeros(machine.num_threads, np.uint32)
            of_all[chosen] = words[:, at].reshape(-1)
            write(machine, of_all)

    return run


def store_matrix_step(instruction: Instruction) -> Step:
    count, is_transposed = _matrix_shape(instruction)
    target, source = instruction.operands
    reads, addresses = [reader(one, "b32") for one in parts_of(source)], address_of(target, "u32")

    def run(machine: Machine) -> None:
        places, warps, programs, chosen = _rows(machine, instruction, addresses, count)
        words = np.stack([read(machine)[chosen].reshape(-1, 32) for read in reads], 1)  # [W, count, 32]
        elements = words.view(np.uint16).reshape(-1, count, 8, 8)
        if is_transposed:
            elements = elements.transpose(0, 1, 3, 2)
        values = np.ascontiguousarray(elements).reshape(-1, 8).view(np.uint64)
        machine.shared.store(instruction, places, values, warps, programs)

    return run


def words_of(operand: Operand) -> list[Reader]:
    return [reader(one, "b32") for one in parts_of(operand)]


STEPS: dict[str, Callable[[Instruction], Step]] = {
    "mma": mma_step,
    "ldmatrix": load_matrix_step,
    "stmatrix": store_matrix_step,
}
