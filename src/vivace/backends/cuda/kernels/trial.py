"""A first small kernel: whether triton compiles and runs here, before a program depends on it."""

from __future__ import annotations

from subprocess import SubprocessError

import torch
from triton.errors import TritonError

from vivace.backends.cuda.device import running_on
from vivace.backends.cuda.kernels.rms_norm import rms_norm


def trial(device: torch.device) -> str | None:
    """What is wrong, for instance that triton finds no C compiler, which its launchers need; None if nothing is."""
    ones = torch.ones((1, 32), device=device)
    try:
        with running_on(device):
            result = rms_norm(ones, ones[0], 0.0)
            is_right = torch.allclose(result, ones, rtol=0, atol=1e-5)
    except (RuntimeError, OSError, SubprocessError, TritonError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"triton does not run a kernel: {lines[0]}"
    return None if is_right else "a kernel computes wrong numbers"
