"""Where a benchmark's ceilings come from: the backend's own measurements."""

from __future__ import annotations

from collections.abc import Callable

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import measure
from vivace.bench.ceilings import Ceilings
from vivace.ops.backend import Backend

BARRIER_REPETITIONS, BARRIER_ROUNDS = 1000, 5  # some 10 ms; the best round counts


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
    """Seconds that threads take to start and end together, measured at each call; None where there are no threads."""
    if not isinstance(backend, CpuBackend):
        return None
    device = backend.device
    return lambda: min(device.measure_barrier(BARRIER_REPETITIONS) for _ in range(BARRIER_ROUNDS))
