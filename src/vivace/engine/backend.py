"""Which backend runs: the one place that imports them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vivace.core.config import Choice, EngineConfig
from vivace.core.errors import ConfigError
from vivace.ops.backend import Backend

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
        return _cuda_backend(device), Choice("device", device, "as asked")
    if config.device == "cpu" or config.backend == "cpu":
        return _cpu_backend(config), Choice("device", "cpu", "as asked")
    missing = _what_a_gpu_lacks()
    if missing:
        return _cpu_backend(config), Choice("device", "cpu", missing)
    try:
        return _cuda_backend("cuda"), Choice("device", "cuda", "a GPU and the gpu extra are there")
    except ConfigError as error:
        return _cpu_backend(config), Choice("device", "cpu", str(error))


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
    if config.quantization == "fp8":
        raise ConfigError("quantization fp8 is for GPUs: no processor multiplies 8-bit floats; use int8 or w8a8")
    from vivace.backends.cpu.backend import CpuBackend

    return CpuBackend(num_threads=config.num_threads, isa=config.instruction_set)


def _cuda_backend(device: str) -> Backend:
    if find_spec("torch") is None:
        raise ConfigError(f"device {device} needs torch: {GPU_EXTRA}")
    try:
        from vivace.backends.cuda.backend import CudaBackend
    except (ImportError, OSError) as error:
        raise ConfigError(f"device {device}: torch does not load ({error}); install it again: {GPU_EXTRA}") from error
    return CudaBackend(device)
