"""Hopper's products of four warps, whose second operand, and the first one too, lie in shared memory.

A descriptor tells where: bits 0 to 13 the address, 16 to 29 the stride between pieces along the leading dimension, 32
to 45 along the other one, each in sixteens of bytes, and 62 and 63 the swizzle. Rows of 8 vectors of 16 bytes (4, 2)
have the numbers of the vectors crossed with the row's number modulo 8 (4, 2), by bits of the address.

Shape letters: G groups of four warps, M = 64, N, K of a product.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx.machine import Machine, Step
from ptx.matrices import ELEMENT_BYTES, first_operand, numbers, words_of
from ptx.operands import Reader, parts_of, reader, writer
from ptx.source import Immediate, Instruction, Vector

SWIZZLE_VECTORS = {0: 1, 1: 8, 2: 4, 3: 2}  # of a row


def vector_offsets(
    descriptors: np.ndarray, num_rows: int, num_columns: int, element_bytes: int, *, is_transposed: bool
) -> np.ndarray:
    """Addresses [G, rows, vectors] of the 16 bytes that hold 8 (or 16) elements: along K, `num_columns` of them, of
    each row (M or N), or where `is_transposed` along the rows, of each column: [G, columns, vectors]."""
    fields = descriptors.astype(np.int64)
    start, leading, stride = ((fields >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    per_row = SWIZZLE_VECTORS[int(fields[0] >> 62 & 3)]
    outer, inner = (num_columns, num_rows) if is_transposed else (num_rows, num_columns)
    line, vector = np.arange(outer)[:, None], np.arange(inner * element_bytes // 16)[None, :]
    leading, stride, start = (one[:, None, None] for one in (leading, stride, start))
    if per_row == 1:
        between, within = (stride, leading) if not is_transposed else (leading, stride)
        return start + line % 8 * 16 + line // 8 * between + vector * within
    # Vectors behind a row of the swizzle lie `leading` further; K never reaches so far.
    plain = (
        start + line % 8 * (16 * per_row) + line // 8 * stride + vector % per_row * 16 + vector // per_row * leading
    )
    return plain ^ ((plain >> 7 & per_row - 1) << 4)


def shared_operand(
    machine: Machine, instruction: Instruction, descriptor: Reader, num_rows: int, kind: str, *, is_transposed: bool
) -> np.ndarray:
    """[G, rows, K] of the active groups."""
    threads = machine.chosen()
    first = threads.reshape(-1, 128)[:, 0]
    descriptors = np.broadcast_to(descriptor(machine), machine.threads.shape)
    if (descriptors[threads].reshape(-1, 128) != descriptors[first][:, None]).any():
        raise instruction.error("threads have different descriptors")
    size, programs = ELEMENT_BYTES[kind], machine.programs[first]
    places = vector_offsets(descriptors[first], num_rows, 32 // size, size, is_transposed=is_transposed)
    each = places[0].size
    here = first % machine.threads_per_program // 128
    words = machine.shared.begin_product(instruction, places.reshape(len(first), -1), here, programs)
    machine.products.append(_Product(first // 128, here, programs, words))
    loaded = machine.shared.load(
        instruction, places.reshape(-1).astype(np.uint32), 8, 2, np.repeat(machine.warps[first], each),
        np.repeat(programs, each),
    )  # fmt: skip
    values = numbers(loaded.view(np.uint8), kind).reshape(len(first), places.shape[1], -1)
    return values.transpose(0, 2, 1) if is_transposed else values


def product_step(instruction: Instruction) -> Step:
    found = re.fullmatch(
        r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k\d+\.(f32|s32)\.(\w+)\.(\w+)", ".".join(instruction.parts)
    )
    if found is None or found[3] not in ELEMENT_BYTES or found[4] not in ELEMENT_BYTES:
        raise instruction.error("this product is not supported")
    columns, sums, kinds = int(found[1]), found[2], (found[3], found[4])
    target, left, right, scale, *rest = instruction.operands
    if any(not isinstance(one, Immediate) or one.value not in (0, 1) for one in rest):
        raise instruction.error("negated operands are not supported")
    flags = [one.value for one in rest if isinstance(one, Immediate)]
    if 0 in flags[:2]:
        raise instruction.error("negated operands are not supported")
    is_kept = reader(scale, "pred")
    in_registers = words_of(left) if isinstance(left, Vector) else None
    a = None if in_registers is not None else reader(left, "u64")
    b = reader(right, "u64")
    reads = [reader(one, sums) for one in parts_of(target)]
    writes = [writer(one, sums) for one in parts_of(target)]
    transposed = [*([0] if in_registers is not None else []), *flags[2:], 0, 0]  # types of 8 bits have no flags

    def run(machine: Machine) -> None:
        groups = machine.chosen()
        if len(groups) % 128 or (groups.reshape(-1, 128)[:, 0] % 128).any():
            raise instruction.error("threads of a group of four warps are elsewhere")
        if in_registers is not None:
            rows = first_operand(machine, in_registers, kinds[0])[groups[::32] // 32]
            rows = rows.reshape(-1, 64, rows.shape[-1])
        else:
            assert a is not None
            rows = shared_operand(machine, instruction, a, 64, kinds[0], is_transposed=bool(transposed[0]))
        beside = shared_operand(machine, instruction, b, columns, kinds[1], is_transposed=bool(transposed[1]))
        product = np.matmul(rows, beside.transpose(0, 2, 1))  # [G, 64, N]
        by_lane = product.reshape(-1, 4, 2, 8, columns // 8, 4, 2).transpose(0, 1, 3, 5, 4, 2, 6)
        by_thread = by_lane.reshape(len(groups), columns // 2)
        kept = np.broadcast_to(is_kept(machine), machine.threads.shape)
        for at, (read, write) in enumerate(zip(reads, writes, strict=True)):
            of_all = np.zeros(machine.num_threads, by_thread.dtype)
            of_all[groups] = by_thread[:, at]
            write(machine, np.where(kept, read(machine), 0).astype(of_all.dtype) + of_all if kept.any() else of_all)

    return run


class _Product:
    """What groups of four warps read from shared memory, in numbered batches; -1 of no batch yet, -2 done."""

    def __init__(self, groups: np.ndarray, here: np.ndarray, programs: np.ndarray, words: np.ndarray) -> None:
        """`here`: numbers of the groups within their programs."""
        self.groups = groups
        self.batches = np.full(len(groups), -1)
        self._here = here
        self._programs = programs
        self._words = words

    @property
    def is_open(self) -> bool:
        return bool((self.batches != -2).any())

    def end(self, machine: Machine, which: np.ndarray) -> None:
        machine.shared.end_product(self._words[which], self._here[which], self._programs[which])
        self.batches[which] = -2


def _active_groups(machine: Machine) -> np.ndarray:
    """Which groups of four warps are, of all."""
    active = np.zeros(len(machine.committed_products), np.bool_)
    active[machine.chosen() // 128] = True
    return active


def _commit(machine: Machine) -> None:
    active = _active_groups(machine)
    for product in machine.products:
        which = (product.batches == -1) & active[product.groups]
        product.batches[which] = machine.committed_products[product.groups[which]]
    machine.committed_products[active] += 1


def _waiting(left: int) -> Step:
    """For all but the last `left` batches of each group."""

    def run(machine: Machine) -> None:
        active = _active_groups(machine)
        for product in machine.products:
            first_left = machine.committed_products[product.groups] - left
            which = (product.batches >= 0) & (product.batches < first_left) & active[product.groups]
            if which.any():
                product.end(machine, which)
        machine.products = [product for product in machine.products if product.is_open]

    return run


def wgmma_step(instruction: Instruction) -> Step:
    """Products have their results at once, but go on to read shared memory until they are waited for."""
    match instruction.parts[1]:
        case "mma_async":
            return product_step(instruction)
        case "commit_group":
            return _commit
        case "wait_group":
            left = instruction.operands[0]
            if isinstance(left, Immediate):
                return _waiting(left.value)
        case "fence":
            return lambda _: None
    raise instruction.error("not supported")


STEPS: dict[str, Callable[[Instruction], Step]] = {"wgmma": wgmma_step}
