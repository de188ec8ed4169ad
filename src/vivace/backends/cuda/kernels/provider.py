"""The one way to the modules that import triton: they are imported for a program whose kernels run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from vivace.backends.cuda.kernels.registry import KernelRegistry
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.ops.program import Program

if TYPE_CHECKING:
    from vivace.backends.cuda.kernels.launchers import Launchers


class SamplingKernels(NamedTuple):
    """What runs in the place of `sampling.sample` and `logprobs.table_of`."""

    draw: Callable[..., Tensor]
    top_tokens: Callable[[Tensor, Tensor, int], Tensor]


@cache
def sampling_kernels() -> SamplingKernels:
    """To be asked for once the registry takes them."""
    from vivace.backends.cuda.kernels.sampling import draw
    from vivace.backends.cuda.kernels.top_tokens import top_tokens

    return SamplingKernels(draw, top_tokens)


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
