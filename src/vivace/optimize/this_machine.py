"""The machine that measures, as the planner sees it, and its name in the notebook."""

from __future__ import annotations

from vivace.backends.cpu.detect import available_cores, detect
from vivace.bench.machine import ceiling_probe
from vivace.core.config import EngineConfig
from vivace.core.errors import UnsupportedError
from vivace.engine.backend import make_backend
from vivace.engine.memory import available_memory_bytes
from vivace.plan.machine import Efficiency, Machine

USABLE = 0.9


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
    """Ceilings by measurement, about a second. Raises `UnsupportedError` for a backend that cannot tell them."""
    backend = make_backend(config.backend, config.num_threads, config.instruction_set)
    probe = ceiling_probe(backend)
    if probe is None:
        raise UnsupportedError(f"vivace optimize measures the cpu backend, not {config.backend}")
    ceilings, found = probe(), detect()
    largest = max((level.num_bytes for level in found.caches), default=0)
    return Machine(
        name="this",
        title=found.processor,
        kind="cpu",
        memory_bytes=available_memory_bytes(),
        read_bytes_per_s=ceilings.read_gb_per_s * 1e9,
        operations_per_s={name: value * 1e9 for name, value in ceilings.gop_per_s.items()},
        source="measured",
        efficiency=Efficiency(basis="measured ceilings, assumed efficiencies"),
        cache_bytes=largest,
        num_cores=config.num_threads or available_cores(),
        usable_memory=USABLE,
    )
