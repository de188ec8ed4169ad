"""A first small kernel: whether triton compiles and runs here, before a program depends on it."""

from __future__ import annotations

from subprocess import SubprocessError

import torch
from triton.errors import TritonError

from vivace.backends.cuda.code_tiles import pack_codes
from vivace.backends.cuda.device import running_on
from vivace.backends.cuda.kernels.matrix_product import matrix_product
from vivace.backends.cuda.kernels.rms_norm import rms_norm


def trial(device: torch.device) -> str | None:
    """What is wrong, for instance that triton finds no C compiler, which its launchers need; None if nothing is."""
    ones = torch.ones((1, 32), device=device)
    try:
        with running_on(device):
            result = rms_norm(ones, ones[0], 0.0)
            is_right = torch.allclose(result, ones, rtol=0, atol=1e-5) and _multiplies_codes(device)
    except (RuntimeError, OSError, SubprocessError, TritonError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"triton does not run a kernel: {lines[0]}"
    return None if is_right else "a kernel computes wrong numbers"


def _multiplies_codes(device: torch.device) -> bool:
    """Of int4, whose kernel has PTX of its own: whole numbers, so that the sums are exact."""
    blocks = (torch.arange(64 * 4 * 20, device=device) * 37 % 256).to(torch.uint8).reshape(64, 4, 20)
    blocks[:, :, :4] = torch.tensor([0, 0x3C, 8, 0], dtype=torch.uint8, device=device)  # scale 1.0, zero point 8
    matrix = pack_codes(blocks.reshape(64, 80), "int4_g32", 128, None)
    signs = torch.ones((1, 128), dtype=torch.bfloat16, device=device)
    signs[:, ::3] = -1
    return torch.equal(matrix_product(signs, matrix), signs.float() @ matrix.decode(slice(None)).T)
