"""Where the limits of a process's control groups stand: those of its own group and of every group around it count.

Version 2 has one tree under /sys/fs/cgroup, version 1 one a controller, /sys/fs/cgroup/CONTROLLER. /proc/self/cgroup
tells the group's path in each. In a container the groups around are not to be seen, and its own is the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def folders_of_groups(root: Path, own: str, controller: str) -> Iterator[Path]:
    """Folders that may hold limits of `controller` (cpu, memory), the roots first. `root`: /sys/fs/cgroup;
    `own`: what /proc/self/cgroup says, empty where it says nothing."""
    trees = (root, root / controller)
    yield from trees
    for line in own.splitlines():
        _, controllers, path = [*line.split(":", 2), "", "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for tree in trees:
            yield from (tree.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))
