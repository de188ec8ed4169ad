"""The block in which a CUDA device is pretended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from pretended.device_guard import guarded
from pretended.device_tensor import Dispatcher
from pretended.launch import launcher
from pretended.machine import Machine
from pretended.torch_cuda import stand_ins

from vivace.backends.cuda import transfer


@contextmanager
def pretended_device(
    *, num_devices: int = 1, capability: tuple[int, int] = (9, 0), total_bytes: int = 8 << 30
) -> Iterator[Machine]:
    """Devices of this capability and memory, for this thread."""
    machine = Machine(num_devices, capability, total_bytes)
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins(machine).items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch.version, "cuda", "13.0")
        interpreter = pytest.importorskip("triton.runtime.interpreter", reason="triton is not installed")
        executor = interpreter.GridExecutor
        patch.setattr(executor, "__call__", launcher(machine, executor.__call__))
        transfer.weights_to.cache_clear()
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor's copy to the device is seen
        try:
            with guarded(), Dispatcher(machine):
                yield machine
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
        machine.check_copies()
    transfer.weights_to.cache_clear()
