"""What this machine is and what it can reach: cores, caches, huge pages; bandwidth and peaks by measurement."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from vivace.backends.cpu import _native
from vivace.core.control_group import CGROUP, OWN_CGROUP, folders_of_groups

CPUS = Path("/sys/devices/system/cpu")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")

# Beyond any last-level cache share, and read within a tenth of a second.
BANDWIDTH_BYTES = 1 << 29
BANDWIDTH_REPETITIONS = 4
PEAK_ITERATIONS = 1_000_000  # 12 multiply-adds each: about 4 ms
PEAK_REPETITIONS = 5  # the best counts: others may use the machine


@dataclass(frozen=True, slots=True)
class CacheLevel:
    """One data or unified cache of the first core. `shared_by` logical cores share it."""

    level: int
    num_bytes: int
    shared_by: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What the system says about itself. Unknown values are empty, zero or None."""

    processor: str
    features: tuple[str, ...]
    instruction_sets: tuple[str, ...]  # slowest first; the last one is the default
    affinity_cores: int  # physical cores of the affinity: hyper-threads of one core count once
    quota_cores: float | None  # of the control group; None: no limit
    caches: tuple[CacheLevel, ...]
    memory_bytes: int
    transparent_huge_pages: str | None  # always, madvise or never; only never costs us speed


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured with all threads of a device. 0: the instruction set has no unit for it."""

    read_bytes_per_s: float
    f32_operations_per_s: float
    bf16_operations_per_s: float
    int8_operations_per_s: float


def detect() -> Machine:
    """Read what the system tells; takes about a millisecond."""
    return Machine(
        processor=processor_name(),
        features=tuple(_native.cpu_features()),
        instruction_sets=tuple(_native.isa_names()),
        affinity_cores=_physical_cores(CPUS, _affinity()),
        quota_cores=_least_quota(CGROUP, _read(OWN_CGROUP)),
        caches=_caches(CPUS / "cpu0"),
        memory_bytes=_memory_bytes(),
        transparent_huge_pages=_huge_page_mode(_read(HUGE_PAGES)),
    )


def processor_name() -> str:
    """As the system calls it; empty where it does not tell."""
    for line in _read(CPUINFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def available_cores() -> int:
    """Physical cores that this process may use: those of its affinity, capped by its control groups' quotas.

    Hyper-threads of one core count once: they share the units that compute and the path to memory, and a second
    thread there only takes turns. `taskset`, `docker --cpuset-cpus` and `--cpus` are respected.
    """
    cores = _physical_cores(CPUS, _affinity())
    quota = _least_quota(CGROUP, _read(OWN_CGROUP))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def measure(device: _native.Device) -> Ceilings:
    """Read bandwidth from huge pages and arithmetic peaks in registers. Takes about half a second."""
    return Ceilings(
        read_bytes_per_s=device.measure_read_bandwidth(BANDWIDTH_BYTES, BANDWIDTH_REPETITIONS),
        f32_operations_per_s=_peak(device, "f32"),
        bf16_operations_per_s=_peak(device, "bf16"),
        int8_operations_per_s=_peak(device, "int8"),
    )


def _peak(device: _native.Device, kind: str) -> float:
    return max(device.measure_peak(kind, PEAK_ITERATIONS) for _ in range(PEAK_REPETITIONS))


def _affinity() -> set[int]:
    """Logical CPUs that the scheduler may use for this process."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _physical_cores(cpus: Path, affinity: set[int]) -> int:
    """Cores that own at least one CPU of the affinity. A CPU whose core is not told counts as one."""
    return len({_read(cpus / f"cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu) for cpu in affinity})


def _least_quota(root: Path, own: str) -> float | None:
    """The least quota of the process's control group, told by `own` (/proc/self/cgroup), and of those around it."""
    groups = folders_of_groups(root, own, "cpu")
    quotas = [quota for group in groups if (quota := _quota_cores(group)) is not None]
    return min(quotas, default=None)


def _quota_cores(cgroup: Path) -> float | None:
    """The quota of one control group, version 2 (cpu.max) or 1."""
    quota, period = [*_read(cgroup / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota = _read(cgroup / "cpu.cfs_quota_us").strip()
        period = _read(cgroup / "cpu.cfs_period_us").strip()
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:  # "max" and -1: no limit
        return None
    return int(quota) / int(period)


def _caches(cpu: Path) -> tuple[CacheLevel, ...]:
    levels = []
    for index in sorted(cpu.glob("cache/index*")):
        size = _read(index / "size").strip()
        if _read(index / "type").strip() == "Instruction" or not size.endswith("K"):
            continue
        shared_by = _count_cpus(_read(index / "shared_cpu_list"))
        levels.append(CacheLevel(int(_read(index / "level")), int(size[:-1]) * 1024, shared_by))
    return tuple(levels)


def _count_cpus(cpu_list: str) -> int:
    """The length of a list as the kernel writes it: 0-3,8."""
    count = 0
    for part in filter(None, cpu_list.strip().split(",")):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _huge_page_mode(text: str) -> str | None:
    """The bracketed word of `always [madvise] never`."""
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] if bracket else None


def _memory_bytes() -> int:
    for line in _read(MEMINFO).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
