"""Which backend runs: the one place that imports them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.memory import available_memory_bytes
from vivace.ops.backend import Backend

if TYPE_CHECKING:
    from vivace.backends.cuda.device import DeviceFacts

# An NVIDIA driver shows itself in one of these (Linux, WSL). Only then is torch asked: importing it takes a second.
DRIVER_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
GPU_EXTRA = "pip install 'vivace[gpu]'"


def make_backend(config: EngineConfig) -> tuple[Backend, Choice]:
    """The backend for the device that is asked for or found, and why that one. Imports only what it returns.

    Raises `ConfigError` for a device or an instruction set that this machine lacks, or a backend not installed.
    """
    if config.backend == "reference":
        from vivace.backends.reference.backend import ReferenceBackend

        return ReferenceBackend(), Choice("device", "cpu", "the reference backend was asked for")
    if config.backend == "cuda" or config.device.startswith("cuda"):
        device = "cuda" if config.device == "auto" else config.device
        return _cuda_backend(config, device), Choice("device", device, "as asked")
    if config.device == "cpu" or config.backend == "cpu":
        return _cpu_backend(config), Choice("device", "cpu", "as asked")
    missing = _what_a_gpu_lacks()
    if missing:
        return _cpu_backend(config), Choice("device", "cpu", missing)
    try:
        return _cuda_backend(config, "cuda"), Choice("device", "cuda", "a GPU and the gpu extra are there")
    except ConfigError as error:
        return _cpu_backend(config), Choice("device", "cpu", str(error))


def thread_choices(config: EngineConfig, backend: Backend) -> tuple[Choice, ...]:
    """What a number of threads that was asked for means here: a file written on a larger machine may ask for many."""
    if config.num_threads is None or backend.name != "cpu":
        return ()
    from vivace.backends.cpu.detect import available_cores

    cores = available_cores()
    if config.num_threads <= cores:
        return (Choice("num_threads", config.num_threads, "as asked"),)
    reason = f"as asked; {cores} cores are here, and threads that take turns are many times slower: leave it out"
    return (Choice("num_threads", config.num_threads, reason),)


def gpu_backend(config: EngineConfig) -> Backend | None:
    """The backend of the GPU that this configuration runs on; None where it runs on the processor. Raises
    `ConfigError` where a GPU is asked for and is not there."""
    if config.backend in ("cpu", "reference") or config.device == "cpu":
        return None
    if config.backend == "auto" and config.device == "auto" and _what_a_gpu_lacks():
        return None
    backend, _ = make_backend(config)
    return backend if backend.name == "cuda" else None


def gpu_facts(config: EngineConfig) -> DeviceFacts | None:
    """What the GPU is; None where this configuration runs on the processor."""
    backend = gpu_backend(config)
    if backend is None:
        return None
    from vivace.backends.cuda.backend import CudaBackend

    return backend.facts if isinstance(backend, CudaBackend) else None


def free_memory_bytes(config: EngineConfig) -> int:
    """Where its weights and caches would lie: what is left of its share of the GPU's memory, or of the machine's."""
    backend = gpu_backend(config)
    free = None if backend is None else backend.free_bytes(config.gpu_memory_utilization)
    return available_memory_bytes() if free is None else free


def _what_a_gpu_lacks() -> str:
    """Empty where it is worth importing torch to find out more."""
    if not any(file.exists() for file in DRIVER_FILES):
        return "this machine has no NVIDIA driver"
    return "" if find_spec("torch") else f"there is an NVIDIA driver, but no torch to use it: {GPU_EXTRA}"


def _cpu_backend(config: EngineConfig) -> Backend:
    if config.kv_cache_dtype == "fp8_e4m3":
        raise ConfigError(
            "kv_cache_dtype fp8_e4m3 is for GPUs: on a CPU use int8_per_token_head, which is as small and more exact"
        )
    if config.attention_backend != "auto":
        raise ConfigError(
            f"attention_backend {config.attention_backend} is for GPUs, and the device is a CPU: leave the option out"
        )
    if config.quantization == "fp8":
        raise ConfigError("quantization fp8 is for GPUs: no processor multiplies 8-bit floats; use int8 or w8a8")
    from vivace.backends.cpu.backend import CpuBackend

    return CpuBackend(num_threads=config.num_threads, isa=config.instruction_set)


def _cuda_backend(config: EngineConfig, device: str) -> Backend:
    if find_spec("torch") is None:
        raise ConfigError(f"device {device} needs torch: {GPU_EXTRA}")
    try:
        from vivace.backends.cuda.backend import CudaBackend
        from vivace.backends.cuda.graph_buckets import GraphOptions
    except (ImportError, OSError) as error:
        raise ConfigError(f"device {device}: torch does not load ({error}); install it again: {GPU_EXTRA}") from error
    graphs = GraphOptions(not config.enforce_eager, config.cuda_graph_sizes, config.cuda_graph_capture == "start")
    return CudaBackend(device, attention=config.attention_backend, graphs=graphs)
