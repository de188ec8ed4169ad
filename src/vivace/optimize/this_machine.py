"""The machine that measures: its name in the notebook, and how the planner sees it."""

from __future__ import annotations

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import available_cores, detect
from vivace.core.config import EngineConfig
from vivace.plan.machine import Machine
from vivace.plan.this_machine import this_machine


def machine_identity(config: EngineConfig) -> dict[str, object]:
    """What measurements of one machine share; not its load, nor what is free in its memory."""
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
    """Ceilings measured now, about a second; efficiencies of `vivace plan --calibrate` where it has run."""
    return this_machine(CpuBackend(num_threads=config.num_threads, isa=config.instruction_set))
