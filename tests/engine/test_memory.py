"""What the process may still take, as the system and its control group tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.core import control_group
from vivace.engine import memory

GIB = 1 << 30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 20 GiB to give."""
    (tmp_path / "meminfo").write_text(
        f"MemTotal:  {64 << 20} kB\nMemAvailable:  {20 << 20} kB\nHugePages_Total:  0\n"
    )
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(control_group, "CGROUP", tmp_path)
    monkeypatch.setattr(control_group, "OWN_CGROUP", tmp_path / "own")
    return tmp_path


def limit(system: Path, most: str, used: int, **charged: int) -> None:
    system.mkdir(parents=True, exist_ok=True)
    (system / "memory.max").write_text(f"{most}\n")
    (system / "memory.current").write_text(f"{used}\n")
    (system / "memory.stat").write_text("".join(f"{name} {number}\n" for name, number in charged.items()))


def test_without_a_group_the_system_tells(system: Path) -> None:
    assert memory.available_memory_bytes() == 20 * GIB
    limit(system, "max", 50 * GIB)
    assert memory.available_memory_bytes() == 20 * GIB


def test_a_group_gives_what_is_left_of_its_limit(system: Path) -> None:
    limit(system, str(16 * GIB), 6 * GIB, anon=6 * GIB)
    assert memory.available_memory_bytes() == 10 * GIB
    limit(system, str(64 * GIB), 6 * GIB)
    assert memory.available_memory_bytes() == 20 * GIB
    limit(system, str(4 * GIB), 5 * GIB)
    assert memory.available_memory_bytes() == 0


def test_pages_of_files_make_way(system: Path) -> None:
    """A model of 8 GiB was read before, by a process that has ended: its pages are charged to the container."""
    limit(system, str(10 * GIB), 9 * GIB, anon=GIB, file=8 * GIB, inactive_file=5 * GIB, active_file=3 * GIB)
    assert memory.available_memory_bytes() == 9 * GIB


def test_a_system_that_does_not_tell(system: Path) -> None:
    (system / "meminfo").unlink()
    assert memory.available_memory_bytes() > 0


def test_the_tightest_of_the_groups_around_counts(system: Path) -> None:
    """A service with a limit in a slice with a tighter one, which its neighbours use as well."""
    (system / "own").write_text("0::/apps.slice/vivace.service\n")
    limit(system / "apps.slice", str(12 * GIB), 9 * GIB, active_file=GIB)
    limit(system / "apps.slice/vivace.service", str(8 * GIB), 2 * GIB)
    limit(system / "apps.slice/other.service", str(GIB), GIB)
    assert memory.available_memory_bytes() == 4 * GIB
    limit(system / "apps.slice", "max", 9 * GIB)
    assert memory.available_memory_bytes() == 6 * GIB


@pytest.mark.parametrize("group", ["", "docker/4f2e"])
def test_groups_of_version_1(system: Path, group: str) -> None:
    """No limit is a number there, the largest whole number of pages; in a container the path is not to be seen."""
    (system / "own").write_text("9:cpu,cpuacct:/elsewhere\n4:memory:/docker/4f2e\n")
    folder = system / "memory" / group
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder / "memory.usage_in_bytes").write_text(f"{6 * GIB}\n")
    assert memory.available_memory_bytes() == 20 * GIB
    (folder / "memory.limit_in_bytes").write_text(f"{8 * GIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}\n")
    assert memory.available_memory_bytes() == 4 * GIB
