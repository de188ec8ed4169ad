"""Memory, processor time and files of the front, under the names that every client library gives, and of the engine.

Only where the kernel tells in /proc; nothing elsewhere.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vivace.serve.metrics.families import PREFIX, Family, Labels, counter, gauge

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """`started_s`: seconds since 1970."""

    resident_bytes: int
    cpu_s: float
    num_threads: int
    started_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessUse | None:
        """None for a process that is gone."""
        try:
            words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        user, system, threads, start, pages = (int(words[place]) for place in (11, 12, 17, 19, 21))
        cpu_s = (user + system) / _TICKS_PER_S
        return cls(pages * _PAGE_BYTES, cpu_s, threads, _booted_s() + start / _TICKS_PER_S)


def process_families(engine_pid: int | None, labels: Labels) -> Iterator[Family]:
    """`labels` go to the engine's; the front's have none, as is the custom."""
    front = ProcessUse.of(os.getpid())
    if front is not None:
        yield _plain(gauge("process_resident_memory_bytes", "Memory of the front.", _BARE, front.resident_bytes))
        yield _plain(counter("process_cpu_seconds", "Processor time of the front.", _BARE, front.cpu_s))
        yield _plain(gauge("process_start_time_seconds", "When the front began.", _BARE, front.started_s))
        yield _plain(gauge("process_open_fds", "Files and sockets of the front.", _BARE, _num_files()))
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield _plain(gauge("process_max_fds", "Files and sockets that it may have.", _BARE, most))
    engine = None if engine_pid is None else ProcessUse.of(engine_pid)
    if engine is not None:
        words = "Memory of the engine's process."
        yield gauge("engine_resident_memory_bytes", words, labels, engine.resident_bytes)
        yield counter("engine_cpu_seconds", "Processor time of the engine's process.", labels, engine.cpu_s)
        yield gauge("engine_num_threads", "Threads of the engine's process.", labels, engine.num_threads)


_BARE = Labels((), ())


@cache
def _booted_s() -> int:
    """Seconds since 1970. Read once: that file takes the kernel 0.2 ms to write."""
    lines = (_PROC / "stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("btime")), 0)


def _plain(family: Family) -> Family:
    return Family(family.name.removeprefix(PREFIX), family.kind, family.text, family.lines)


def _num_files() -> int:
    return len(os.listdir(_PROC / "self" / "fd"))
