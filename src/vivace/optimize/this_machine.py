"""The machine that measures: its name in the notebook, and how the planner sees it."""

from __future__ import annotations

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import available_cores, detect
from vivace.core.config import EngineConfig
from vivace.engine.backend import gpu_facts
from vivace.plan.machine import Machine
from vivace.plan.this_gpu import gpu_machine
from vivace.plan.this_machine import this_machine


def machine_identity(config: EngineConfig) -> dict[str, object]:
    """What measurements of one machine share; not its load, nor what is free in its memory."""
    gpu = gpu_facts(config)
    if gpu is not None:
        return {
            "processor": gpu.name,
            "instruction_set": f"compute capability {gpu.capability}",
            "cores": available_cores(),
            "memory_gib": round(gpu.memory_bytes / 2**30),
        }
    found = detect()
    return {
        "processor": found.processor,
        "instruction_set": config.instruction_set or (found.instruction_sets or ("",))[-1],
        "cores": available_cores(),
        "memory_gib": round(found.memory_bytes / 2**30),
    }


def machine_words(identity: dict[str, object]) -> str:
    """`AMD EPYC, 2 cores, avx512_bf16, 24 GiB`."""
    parts = (identity["processor"] or "a machine", f"{identity['cores']} cores", identity["instruction_set"])
    return ", ".join(str(part) for part in (*parts, f"{identity['memory_gib']} GiB"))


def measured_machine(config: EngineConfig) -> Machine:
    """Ceilings measured now, about a second; on a processor efficiencies of `vivace plan --calibrate` where it has
    run."""
    gpu = gpu_machine(config)
    return gpu or this_machine(CpuBackend(num_threads=config.num_threads, isa=config.instruction_set))
