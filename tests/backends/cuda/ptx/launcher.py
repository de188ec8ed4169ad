"""Triton's driver for a named target, whose device is the executor: launches go all the way that they go on a GPU.

`install(80)` makes Triton compile for sm_80 what is launched from then on, and execute its PTX. Tensors are torch's,
of the CPU. ptxas is left out: it takes half of a compilation, and what it makes runs nowhere here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice, product
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

from ptx import arithmetic, conversions, lanes, matrices, succession, transfers, warpgroups
from ptx.device_facts import pretend
from ptx.machine import CompiledBlock, Machine, guarded
from ptx.memory import GlobalMemory
from ptx.source import RAW, PtxError, Source, Symbol, parse

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}  # of a program, at most
THREADS_AT_ONCE = 8192
STEPS = {
    **arithmetic.STEPS, **transfers.STEPS, **lanes.STEPS, **matrices.STEPS, **warpgroups.STEPS, **succession.STEPS,
    "cvt": conversions.convert_step,
}  # fmt: skip


class Kernel:
    """PTX made ready to run. `opcodes`: what it is made of."""

    def __init__(self, ptx: str) -> None:
        self.source: Source = parse(ptx)
        self.opcodes = {
            ".".join(instruction.parts) for block in self.source.blocks for instruction in block.instructions
        }
        self._program = _compiled(self.source)

    def launch(
        self,
        arguments: list[Any],
        grid: tuple[int, int, int],
        shared_bytes: int,
        num_warps: int,
        *,
        must_wait: bool = False,
    ) -> None:
        """`arguments`: tensors and numbers, in the order of the kernel's parameters. `must_wait`: see `Machine`."""
        memory = GlobalMemory([one for one in arguments if isinstance(one, torch.Tensor)])
        parameters = {
            name: _bits(memory.address(one) if isinstance(one, torch.Tensor) else one, bits)
            for one, (name, bits) in zip(arguments, self.source.parameters, strict=True)
        }
        with np.errstate(all="ignore"):
            for ids in _batches(grid, max(1, THREADS_AT_ONCE // (32 * num_warps))):
                Machine(self.source, parameters, ids, grid, memory, shared_bytes, num_warps, must_wait=must_wait).run(
                    self._program
                )
        memory.copy_back()


def _batches(grid: tuple[int, int, int], size: int) -> Iterator[np.ndarray]:
    """Programs' numbers [n, 3], x first."""
    programs = ((x, y, z) for z, y, x in product(*(range(count) for count in reversed(grid))))
    while batch := list(islice(programs, size)):
        yield np.array(batch)


def _bits(value: float, bits: int) -> np.ndarray:
    if isinstance(value, float):
        return np.array(value, np.float32 if bits == 32 else np.float64).view(RAW[bits])
    return np.array(int(value) & (1 << bits) - 1, RAW[bits])


def _compiled(source: Source) -> list[CompiledBlock]:
    places = {label: number for number, block in enumerate(source.blocks) for label in block.labels}
    program = []
    for number, block in enumerate(source.blocks):
        compiled = CompiledBlock(number, [])
        for instruction in block.instructions:
            name = instruction.parts[0]
            if name in ("bra", "ret", "exit"):
                target = instruction.operands[0] if name == "bra" else None
                compiled.branch = instruction, places[target.name] if isinstance(target, Symbol) else None
            elif name in STEPS:
                try:
                    step = STEPS[name](instruction)
                except (KeyError, ValueError, PtxError) as error:
                    raise instruction.error(f"not supported: {error}") from error
                compiled.steps.append((guarded(instruction, step), instruction))
            else:
                raise instruction.error("not supported")
        program.append(compiled)
    return program


@cache
def kernel_of(ptx: bytes) -> Kernel:
    return Kernel(ptx.decode())


class _Device:
    """What Triton asks of a device's module."""

    def __init__(self, capability: int) -> None:
        self._shared_bytes = SHARED_BYTES[capability]

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": self._shared_bytes}

    def load_binary(self, _: str, binary: bytes, *__: int) -> tuple[Any, ...]:
        return object(), kernel_of(binary), 0, 0, 1024

    def unload_module(self, _: object) -> None:
        """Nothing is held."""


class _Launcher:
    def __init__(self, source: Any, metadata: Any) -> None:
        names = source.fn.arg_names
        self._types = [source.signature[name] for name in names]
        constants = {names[path[0]]: value for path, value in source.constants.items() if len(path) == 1}
        self._must_wait = metadata.launch_pdl
        constants |= {name: getattr(metadata, name) for name in ("num_warps", "num_stages", "launch_pdl")}
        self._launched = source.fn.__name__, tuple(sorted((name, str(value)) for name, value in constants.items()))
        self._shared_bytes = metadata.shared
        self._num_warps = metadata.num_warps
        if metadata.num_ctas != 1 or metadata.global_scratch_size or metadata.profile_scratch_size:
            raise PtxError(f"{metadata.name}: clusters and scratch memory are not supported")

    def __call__(self, x: int, y: int, z: int, _: int, kernel: Kernel, *more: Any) -> None:
        arguments = more[4:]  # behind metadata and hooks
        launched[self._launched] = kernel.opcodes
        given = list(_flat(self._types, arguments))
        given += [0, 0]  # for scratch memory
        kernel.launch(given, (x, y, z), self._shared_bytes, self._num_warps, must_wait=self._must_wait)


def _flat(types: Any, values: Any) -> Iterator[Any]:
    """Arguments that were not compiled in."""
    for kind, value in zip(types, values, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(kind, value)
        elif kind != "constexpr":
            yield value


class _Driver:
    """A stand-in for Triton's `GPUDriver`."""

    launcher_cls = _Launcher

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)
        self.utils = _Device(capability)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


# What was launched: names and constants of kernels, and their instructions.
launched: dict[tuple[str, tuple[tuple[str, str], ...]], set[str]] = {}


def _keep_ptx(_: CUDABackend, source: str, *__: object) -> bytes:
    return source.encode()


def install(capability: int) -> None:
    CUDABackend.make_cubin = _keep_ptx
    pretend(capability, SHARED_BYTES[capability])
    triton.runtime.driver.set_active(_Driver(capability))
