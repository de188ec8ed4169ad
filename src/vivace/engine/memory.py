"""How much memory the process may still take."""

from __future__ import annotations

import os
from pathlib import Path

from vivace.core import control_group

_MEMINFO = Path("/proc/meminfo")
_FILES = ("inactive_file", "active_file")


def available_memory_bytes() -> int:
    """Bytes that can be allocated without swapping, within the limits of the control groups around the process.

    Pages of files count as free, as they do in MemAvailable: a container's group is charged for those of the model
    that was just read, and gives them up when memory is asked for.
    """
    available = _fields(_MEMINFO).get("MemAvailable", 0) * 1024 or _half_of_all()
    own = _text(control_group.OWN_CGROUP)
    folders = control_group.folders_of_groups(control_group.CGROUP, own, "memory")
    left = (_left_bytes(folder) for folder in folders)
    return max(0, min((available, *(num_bytes for num_bytes in left if num_bytes is not None))))


def _left_bytes(group: Path) -> int | None:
    """Of a control group of version 2 or 1, which counts the groups in it under `total_`; None without a limit."""
    prefix, limit, used = "", _number(group / "memory.max"), _number(group / "memory.current")
    if limit is None and used is None:
        prefix = "total_"
        limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    charged = _fields(group / "memory.stat")
    return limit - used + sum(charged.get(prefix + name, 0) for name in _FILES)


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
