"""Where a benchmark's ceilings come from: the backend's own measurements."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import measure
from vivace.bench.ceilings import Ceilings
from vivace.ops.backend import Backend

BARRIER_REPETITIONS, BARRIER_ROUNDS = 1000, 5  # some milliseconds


def ceiling_probe(backend: Backend) -> Callable[[], Ceilings] | None:
    """A measurement of the machine with this backend's threads, about a second a call; None where it has none."""
    if not isinstance(backend, CpuBackend):
        return None
    device = backend.device

    def probe() -> Ceilings:
        measured = measure(device)
        gop_per_s = {
            "f32": measured.f32_operations_per_s / 1e9,
            "bf16": measured.bf16_operations_per_s / 1e9,
            "int8": measured.int8_operations_per_s / 1e9,
        }
        return Ceilings(measured.read_bytes_per_s / 1e9, {name: value for name, value in gop_per_s.items() if value})

    return probe


def barrier_probe(backend: Backend) -> Callable[[], float] | None:
    """Seconds that busy threads take to start and end together, the median of a few rounds; None without threads."""
    if not isinstance(backend, CpuBackend):
        return None
    device = backend.device
    return lambda: median(device.measure_barrier(BARRIER_REPETITIONS) for _ in range(BARRIER_ROUNDS))
