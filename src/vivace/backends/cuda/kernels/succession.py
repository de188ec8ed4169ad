"""A step's kernels one after the other: how the next one is made ready while its predecessor still runs.

From compute capability 9.0 on a launch may be programmatic ("programmatic dependent launch"): the device places the
next kernel's programs beside those of the running one as soon as all of these have begun and have said so, and
they wait inside for its end and its results. What lies between two kernels otherwise, some 2 us on an H100 for the
launch, the first instructions and the first bytes of memory, is over by then. A layer has a dozen kernels, and a
token of a small model takes less than a millisecond.

Kernels launched so must wait before they touch anything, in every program: a kernel then ends after all those before
it have ended, which makes the order of the stream whole again. `launch_pdl` is what both sides follow: a kernel that
is compiled with the option waits, one that is not does not, and each is launched as it was compiled.

Weights, which no kernel of a step writes, may be asked for before: into the second-level cache, which all
multiprocessors share, so that nothing of it can be stale.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from vivace.backends.cuda.device import driver_version

OVERLAPPING_CAPABILITY = (9, 0)
OVERLAPPING_DRIVER = 545  # of CUDA 12.3, the first to keep such launches in a CUDA graph
LINE_BYTES: tl.constexpr = tl.constexpr(128)  # of the second-level cache
AHEAD: tl.constexpr = tl.constexpr(128)  # lines that a program asks for: 16 KiB, 2 to 4 MiB of a product's programs


@cache
def launch_options(device: torch.device) -> dict[str, bool]:
    """Of a kernel that calls `wait_for_predecessor`. Older devices, drivers and versions of Triton, and its
    interpreter, know none of it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OVERLAPPING_CAPABILITY:
        return {}
    major = driver_version().partition(".")[0]
    is_known = major.isdecimal() and int(major) >= OVERLAPPING_DRIVER and hasattr(tl.extra.cuda, "gdc_wait")
    return {"launch_pdl": True} if is_known else {}


def overlaps(_semantic: Any = None) -> tl.constexpr:
    """Inside a kernel: whether it is compiled with `launch_pdl`."""
    return tl.constexpr(_semantic is not None and bool(getattr(_semantic.builder.options, "launch_pdl", False)))


setattr(overlaps, tl.core.TRITON_BUILTIN, True)  # the compiler calls it while it translates a kernel


@triton.jit
def wait_for_predecessor():
    """Lets the next kernel be placed, then waits. In front of every access to memory but `ask_for`."""
    if overlaps():
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def ask_for(lines):
    """Begins to read weights at these addresses, one each 128 bytes, into the second-level cache."""
    tl.inline_asm_elementwise(
        "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
        "=r,l", [lines.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip
