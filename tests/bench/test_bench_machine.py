"""Probes of the machine that does the measuring."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.machine import barrier_probe


@pytest.mark.parametrize(("barrier_s", "most_s"), [(5e-7, 0.01), (4e-3, 0.2), (0.1, 2.0)])
def test_barriers_take_little_time_also_where_threads_lack_a_core(
    barrier_s: float, most_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads on one core wait for each other by time slices: a thousand barriers would take minutes."""
    spent: list[float] = []

    def measure_barrier(repetitions: int) -> float:
        spent.append(barrier_s * repetitions)
        return barrier_s

    monkeypatch.setattr(CpuBackend, "device", SimpleNamespace(measure_barrier=measure_barrier))
    probe = barrier_probe(CpuBackend(num_threads=1))
    assert probe is not None
    assert probe() == barrier_s
    assert 5 * barrier_s <= sum(spent) <= most_s
