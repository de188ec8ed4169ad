"""The one way to the modules that import triton: they are imported for a program whose kernels run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.ops.program import Program

if TYPE_CHECKING:
    from vivace.backends.cuda.kernels.launchers import Launchers


def launchers_for(program: Program, cache: CudaKVCache, registry: KernelRegistry) -> Launchers | None:
    """None where no kernel runs at all: `registry.complaint` says why. The registry's first program makes a trial."""
    if registry.complaint is not None:
        return None
    from vivace.backends.cuda.kernels.launchers import Launchers
    from vivace.backends.cuda.kernels.trial import trial

    if not registry.is_tried:
        registry.set_trial(trial(cache.device))
        if registry.complaint is not None:
            return None
    return Launchers(program, cache, registry)
