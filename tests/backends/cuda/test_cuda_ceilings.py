"""Measurements of a device, on torch's CPU device: that they run, and that rates are those of the clock."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the CUDA backend computes with torch")

from vivace.backends.cuda import op_clock  # noqa: E402
from vivace.backends.cuda.backend import CudaBackend  # noqa: E402
from vivace.backends.cuda.ceilings import copy_rate, launch_overhead_s, measure_ceilings, read_rate  # noqa: E402

CPU = torch.device("cpu")


class Ticks:
    """A clock that moves by a millisecond a reading."""

    def __init__(self) -> None:
        self._readings = 0

    def perf_counter(self) -> float:
        self._readings += 1
        return 1e-3 * self._readings


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    ticks = Ticks()
    monkeypatch.setattr(op_clock, "time", ticks)
    return ticks


@pytest.mark.usefixtures("ticks")
def test_rates_are_work_by_time() -> None:
    found = measure_ceilings(CPU, memory_bytes=1 << 16, size=64, rounds=3)
    assert copy_rate(CPU, 1 << 16, 2) == pytest.approx(2 * (1 << 16) / 1e-3)
    assert read_rate(CPU, 1 << 16, 2) == pytest.approx((1 << 16) / 1e-3)
    assert found.read_bytes_per_s == pytest.approx(2 * (1 << 16) / 1e-3)
    assert {"f32", "bf16", "f16"} <= set(found.operations_per_s)
    assert all(peak == pytest.approx(2 * 64**3 / 1e-3) for peak in found.operations_per_s.values())
    assert launch_overhead_s(CPU, 3) == pytest.approx(1e-3)


def test_launches_are_timed_in_order() -> None:
    done: list[int] = []
    seconds = op_clock.launch_seconds(CPU, [lambda number=number: done.append(number) for number in range(150)])
    assert done == list(range(150))
    assert len(seconds) == 150
    assert all(one >= 0 for one in seconds)


def test_torchs_cpu_device_has_no_ceilings() -> None:
    backend = CudaBackend("cpu")
    backend.synchronize()
    assert backend.measure_ceilings() is None


class MadeUpEvent:
    """An event of a queue whose clock is the number of launches, in milliseconds."""

    moments = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.moment = MadeUpEvent.moments

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: MadeUpEvent) -> float:
        return float(later.moment - self.moment)


def test_a_gpu_is_kept_busy_while_each_run_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    leads: list[int] = []
    monkeypatch.setattr(torch.cuda, "Event", MadeUpEvent)
    monkeypatch.setattr(torch.cuda, "_sleep", leads.append)
    MadeUpEvent.moments = 0

    def launch(number: int) -> None:
        MadeUpEvent.moments += number

    numbers = list(range(70))
    device = SimpleNamespace(type="cuda")
    seconds = op_clock.launch_seconds(device, [partial(launch, number) for number in numbers])
    assert seconds == pytest.approx([1e-3 * number for number in numbers])
    assert leads == [op_clock.LEAD_CYCLES] * 3  # 32, 32 and 6 launches
