"""Launches of Triton's kernels in its interpreter, with what a launch on a device demands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pretended.device_tensor import DeviceTensor, inner_of
from pretended.machine import Machine
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


def launcher(machine: Machine, interpret: Callable[..., None]) -> Callable[..., None]:
    """In the place of `GridExecutor.__call__`."""

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [*_tensors((*args, *kwargs.values()))]
        pointers = [one for one in tensors if isinstance(one, DeviceTensor)]
        if len(pointers) < len(tensors):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        if any(one.allocation.device != machine.current_device for one in pointers):
            raise RuntimeError("CUDA error: an illegal memory access: a kernel runs on the current device")
        inner_args = [inner_of(one) if isinstance(one, Tensor) else one for one in args]

        def run() -> None:
            with _disable_current_modes():
                interpret(executor, *inner_args, **kwargs)

        stream = machine.stream_of(machine.current_device)
        there = [one.allocation for one in pointers]
        if machine.recording is not None:
            machine.recording.check(stream)
            machine.recording.keep(pointers)
            machine.recording.launch(run, pointers)
        machine.access(stream, there, there)
        run()

    return launch


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)
