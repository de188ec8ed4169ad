"""The GPU of the machine we run on: memory and ceilings read from it, efficiencies assumed as for all GPUs."""

from __future__ import annotations

from vivace.core.config import EngineConfig
from vivace.engine.backend import gpu_backend, gpu_facts
from vivace.plan.hardware import GB, GPU_EFFICIENCY
from vivace.plan.machine import Machine


def gpu_machine(config: EngineConfig) -> Machine | None:
    """None where this configuration runs on the processor. Ceilings are measured, which takes a second."""
    backend, facts = gpu_backend(config), gpu_facts(config)
    measured = None if backend is None else backend.measure_ceilings()
    if facts is None or measured is None:
        return None
    return Machine(
        name="this",
        title=facts.name,
        kind="gpu",
        memory_bytes=facts.memory_bytes,
        read_bytes_per_s=measured.read_bytes_per_s,
        operations_per_s=measured.operations_per_s,
        source="measured here, now",
        efficiency=GPU_EFFICIENCY,
        runtime_bytes=GB,  # of a CUDA context with its libraries
    )
