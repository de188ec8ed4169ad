"""What the package asks of a device before it launches kernels, answered as the target would.

Tensors are the CPU's, which is no GPU: whoever asks about their device is told about the first GPU, and what torch
and the system tell about that one is the target's. What is launched is then what the target itself would get.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from vivace.backends.cuda.kernels import attention, succession

GPU = torch.device("cuda", 0)
DRIVER = "580.65.06"


def pretend(capability: int, shared_bytes: int) -> None:
    """`shared_bytes`: that a program may have."""
    torch.cuda.get_device_capability = lambda _=None: divmod(capability, 10)
    torch.cuda.get_device_properties = lambda _=None: SimpleNamespace(shared_memory_per_block_optin=shared_bytes)
    succession.driver_version = lambda: DRIVER
    for ask in (succession.launch_options, attention.shared_bytes_of):
        _replace(ask, lambda _, ask=ask: ask(GPU))


def _replace(function: Callable[..., Any], substitute: Callable[..., Any]) -> None:
    """In every module that has it by its name."""
    name = function.__name__
    for module in list(sys.modules.values()):
        if vars(module).get(name) is function:
            setattr(module, name, substitute)
