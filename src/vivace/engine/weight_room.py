"""Weights that a device's memory does not hold are refused before they are read: that may take minutes."""

from __future__ import annotations

from collections.abc import Callable

from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.models.parameters import Quantization
from vivace.ops.backend import Backend

SMALLER: tuple[Quantization, ...] = ("int8", "int4")  # from the most precise; what floats may be rounded to
GIB = 2**30


def check_room(
    what: str, config: EngineConfig, backend: Backend, num_bytes: Callable[[Quantization | None], int]
) -> None:
    """Raise `ConfigError` with the numbers where weights do not fit what is free of the device's own memory: of its
    share, unless the KV cache's size is given. `num_bytes`: at least so many under a quantization, None as stored."""
    is_sized = config.num_kv_blocks is not None or config.kv_cache_memory_bytes is not None
    share = 1.0 if is_sized else config.gpu_memory_utilization
    free_bytes = backend.free_bytes(share)
    if free_bytes is None:
        return
    wanted = None if config.quantization == "auto" else config.quantization
    needed, device = num_bytes(wanted), "cuda" if config.device == "auto" else config.device
    if needed <= free_bytes:
        return
    as_what = f"as {wanted}" if wanted else "as stored"
    smaller = ((one, num_bytes(one)) for one in SMALLER)
    fitting = (f"use --quantization {name} ({size / GIB:.2f} GiB)" for name, size in smaller if size < free_bytes)
    advice = next(fitting, "use a checkpoint of fewer bits or a smaller model")
    raise ConfigError(
        f"{what} take {needed / GIB:.2f} GiB {as_what}, and {device} has {free_bytes / GIB:.2f} GiB free for them"
        f"{'' if is_sized else f' (--gpu-memory-utilization {share:g})'}: "
        f"{advice}, another device, or --device cpu"
    )
