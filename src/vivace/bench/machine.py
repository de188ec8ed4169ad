"""Where a benchmark's ceilings come from: the backend's own measurements."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.ceilings import Ceilings
from vivace.ops.backend import Backend

FIRST_BARRIERS, MOST_BARRIERS, BARRIER_ROUNDS = 10, 1000, 5  # some milliseconds
BARRIER_ROUND_S = 0.02  # a barrier waits for a time slice, thousands of times its own, where threads lack a core


def ceiling_probe(backend: Backend) -> Callable[[], Ceilings] | None:
    """A measurement of the device, or of the machine with this backend's threads, about a second a call; None where
    it has none."""
    first = backend.measure_ceilings()
    if first is None:
        return None
    taken = [first]

    def probe() -> Ceilings:
        measured = taken.pop() if taken else backend.measure_ceilings()
        assert measured is not None  # it was not a moment ago
        gop_per_s = {unit: peak / 1e9 for unit, peak in measured.operations_per_s.items()}
        return Ceilings(measured.read_bytes_per_s / 1e9, gop_per_s)

    return probe


def barrier_probe(backend: Backend) -> Callable[[], float] | None:
    """Seconds that busy threads take to start and end together, the median of a few rounds; None without threads."""
    if not isinstance(backend, CpuBackend):
        return None
    measure = backend.device.measure_barrier

    def probe() -> float:
        count = min(MOST_BARRIERS, max(1, int(BARRIER_ROUND_S / max(measure(FIRST_BARRIERS), 1e-9))))
        return median(measure(count) for _ in range(BARRIER_ROUNDS))

    return probe
