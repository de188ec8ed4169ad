"""The GPU of the machine we run on: memory and ceilings read from it, efficiencies from a calibration that was kept,
or assumed as for all GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vivace import __version__
from vivace.core.config import EngineConfig
from vivace.engine.backend import gpu_backend, gpu_facts
from vivace.plan.calibration_file import Calibration, read_calibration, write_calibration
from vivace.plan.gpu_calibration import TRIALS, GpuTrials, measure_gpu
from vivace.plan.hardware import GB, GPU_EFFICIENCY
from vivace.plan.machine import Machine

if TYPE_CHECKING:
    from vivace.backends.cuda.device import DeviceFacts


def gpu_machine(config: EngineConfig) -> Machine | None:
    """None where this configuration runs on the processor. Ceilings are measured, which takes a second."""
    backend, facts = gpu_backend(config), gpu_facts(config)
    measured = None if backend is None else backend.measure_ceilings()
    if facts is None or measured is None:
        return None
    calibration = read_calibration(identity(facts))
    return Machine(
        name="this",
        title=facts.name,
        kind="gpu",
        memory_bytes=facts.memory_bytes,
        read_bytes_per_s=measured.read_bytes_per_s,
        operations_per_s=measured.operations_per_s,
        source="measured here, now",
        efficiency=GPU_EFFICIENCY if calibration is None else calibration.efficiency,
        runtime_bytes=GB,  # of a CUDA context with its libraries
    )


def calibrate_gpu(
    config: EngineConfig, *, trials: GpuTrials = TRIALS, progress: Callable[[int, int], None] | None = None
) -> Calibration | None:
    """Measure steps of small models and keep what follows from them; None where this configuration runs on the
    processor. Raises `ConfigError` where the file cannot be kept."""
    backend, facts = gpu_backend(config), gpu_facts(config)
    ceilings = None if backend is None else backend.measure_ceilings()
    if facts is None or ceilings is None:
        return None
    calibration = Calibration(
        identity(facts),
        time.time(),
        ceilings.read_bytes_per_s,
        ceilings.operations_per_s.get("bf16", 0.0),
        measure_gpu(config, ceilings, trials=trials, progress=progress),
        len(trials.layouts) * (1 + len(trials.rows)) + 1,
    )
    write_calibration(calibration)
    return calibration


def identity(facts: DeviceFacts) -> str:
    """Of what a calibration holds for: the device, its driver and the libraries that compute on it."""
    parts = (facts.name, facts.memory_bytes, facts.driver_version, facts.torch_version, facts.triton_version)
    return "|".join(("gpu", *map(str, parts), __version__))
