"""Times of operations on the device's clock, ours and a library's in turn, and their share of the ceilings."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpu.ledger import ledger_path
from gpu.setting import Setting
from vivace.backends.cuda.ceilings import measure_ceilings
from vivace.backends.cuda.op_clock import launch_seconds

Run = Callable[[], object]
COLD_BYTES = 256 << 20  # of buffers used in turn: five times an H100's second-level cache
MOST_COPIES = 24


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes a second of the faster of a copy and a sum; operations a second by unit."""

    bytes_per_s: float
    operations_per_s: dict[str, float]

    def floor_s(self, num_bytes: float, operations: float, unit: str) -> tuple[float, str]:
        """The least time, and the ceiling that sets it. A unit that was not measured is bound by memory alone."""
        memory_s = num_bytes / self.bytes_per_s
        peak = self.operations_per_s.get(unit)
        arithmetic_s = 0.0 if peak is None else operations / peak
        return (memory_s, "memory") if memory_s >= arithmetic_s else (arithmetic_s, unit)


def ceilings_of(setting: Setting) -> Ceilings:
    """Of the section `ceilings` where it has run, else measured now."""
    path = ledger_path(setting.out, "ceilings")
    records = json.loads(path.read_text())["records"] if path.exists() else {}
    peaks = {key.removeprefix("peak "): one["value"] for key, one in records.items() if key.startswith("peak ")}
    rates = [records[key]["value"] for key in ("copy", "read") if "value" in records.get(key, {})]
    if rates and any(peaks.values()):
        return Ceilings(max(rates), {unit: peak for unit, peak in peaks.items() if peak})
    sizes = {"memory_bytes": 1 << 20, "size": 64, "rounds": 2} if setting.is_tiny else {}
    found = measure_ceilings(setting.torch_device, **sizes)
    return Ceilings(found.read_bytes_per_s, found.operations_per_s)


def copies_of(num_bytes: float, setting: Setting) -> int:
    """How many sets of data are used in turn, so that none is found in a cache."""
    if setting.is_tiny:
        return 2
    return max(2, min(MOST_COPIES, -(-COLD_BYTES // max(1, int(num_bytes)))))


def peer_seconds(setting: Setting, runs: Sequence[Run]) -> list[float]:
    return launch_seconds(setting.torch_device, runs)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Microseconds: median, 10th and 90th percentile."""
    ordered = sorted(seconds)
    tenth = len(ordered) // 10
    return {
        "us": 1e6 * statistics.median(ordered),
        "us_low": 1e6 * ordered[tenth],
        "us_high": 1e6 * ordered[len(ordered) - 1 - tenth],
    }


def rates(seconds: float, num_bytes: float, operations: float, unit: str, ceilings: Ceilings) -> dict[str, Any]:
    """GB/s, TFLOP/s and the share of the ceiling that binds."""
    floor_s, bound = ceilings.floor_s(num_bytes, operations, unit)
    return {
        "gb_per_s": num_bytes / seconds / 1e9,
        "tflop_per_s": operations / seconds / 1e12,
        "bound": bound,
        "floor_us": 1e6 * floor_s,
        "share": floor_s / seconds,
    }


def try_peer(make: Callable[[], list[Run]]) -> tuple[list[Run], str | None]:
    """A library's way to do the same, tried once; none and its complaint where it refuses."""
    try:
        runs = make()
        for run in runs[:1]:
            run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return runs, None
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, AssertionError) as error:
        return [], (str(error).splitlines() or [type(error).__name__])[0][:160]
