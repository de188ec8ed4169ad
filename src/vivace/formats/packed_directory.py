"""The folder of packed-weight files: how large it may grow, and what goes first when it would."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

SUFFIX = ".packed"
STALE_S = 3600.0  # a temporary file this old belongs to a process that died: the largest takes minutes to write


def packed_path(directory: Path, key: str) -> Path:
    """The file of a key."""
    return directory / f"{key[:32]}{SUFFIX}"


def make_room(directory: Path, num_bytes: int) -> None:
    """Creates the folder and makes room for a file of `num_bytes`: those not read for longest are dropped until all
    of it takes at most half of what the disk could give it. Raises OSError if even an empty folder has no room.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _drop_stale(directory)
    files = sorted((status.st_mtime_ns, status.st_size, path) for path, status in _files(directory, f"*{SUFFIX}"))
    used = sum(size for _, size, _ in files)
    limit = (used + shutil.disk_usage(directory).free) // 2
    if num_bytes > limit:
        raise OSError(errno.ENOSPC, f"{num_bytes >> 20} MiB would take more than half of what is free")
    for _, size, path in files:
        if used + num_bytes <= limit:
            return
        path.unlink(missing_ok=True)
        used -= size


def mark_used(path: Path) -> None:
    """A file's time of change is that of its last use, where the folder can be written."""
    try:
        os.utime(path)
    except OSError:
        return


def _drop_stale(directory: Path) -> None:
    for path, status in _files(directory, ".*.tmp"):
        if time.time() - status.st_mtime > STALE_S:
            path.unlink(missing_ok=True)


def _files(directory: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    """Those that another process does not remove meanwhile."""
    found = []
    for path in directory.glob(pattern):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:
            continue
    return found
