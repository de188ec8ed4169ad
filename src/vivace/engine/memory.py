"""How much memory the process may still take."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_memory_bytes() -> int:
    """Bytes that can be allocated without swapping, within the control group's limit where there is one.

    Pages of files count as free, as they do in MemAvailable: a container's group is charged for those of the model
    that was just read, and gives them up when memory is asked for.
    """
    available = _fields(_MEMINFO).get("MemAvailable", 0) * 1024 or _half_of_all()
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is None or used is None:
        return available
    charged = _fields(_CGROUP / "memory.stat")
    files = charged.get("inactive_file", 0) + charged.get("active_file", 0)
    return max(0, min(available, limit - used + files))


def _half_of_all() -> int:
    """Where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name, perhaps with a colon, and a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {pair[0].removesuffix(":"): int(pair[1]) for pair in words if len(pair) > 1 and pair[1].isdecimal()}


def _number(path: Path) -> int | None:
    """None where there is no such file, or no limit ("max")."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
