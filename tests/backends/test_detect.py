"""What the system says, parsed; and measured ceilings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vivace.backends.cpu import detect
from vivace.backends.cpu.backend import CpuBackend, instruction_sets


def test_cores_respect_affinity() -> None:
    assert 1 <= detect.available_cores() <= len(os.sched_getaffinity(0))
    assert CpuBackend().num_threads == detect.available_cores()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert detect._least_quota(tmp_path, "") == cores


@pytest.mark.parametrize(
    ("own", "cores"),
    [
        ("0::/\n", 3.0),
        ("0::/service/worker\n", 1.5),
        ("0::/service/other\n", 2.0),
        ("0::/../outside\n", 3.0),
        ("4:memory:/service/worker\n0::/\n", 3.0),
        ("4:cpu,cpuacct:/old\n", 0.5),
        ("broken", 3.0),
        ("", 3.0),
    ],
)
def test_the_least_quota_of_all_groups_around_counts(tmp_path: Path, own: str, cores: float) -> None:
    quotas = {"": "300000 100000", "service": "200000 100000", "service/worker": "150000 100000"}
    for group, text in quotas.items():
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(text + "\n")
    (tmp_path / "cpu/old").mkdir(parents=True)
    (tmp_path / "cpu/old/cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu/old/cpu.cfs_period_us").write_text("100000\n")
    assert detect._least_quota(tmp_path, own) == cores


@pytest.mark.parametrize(("affinity", "cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1, 2}, 2), ({3, 7}, 2), ({7}, 1)])
def test_hyper_threads_of_a_core_count_once(tmp_path: Path, affinity: set[int], cores: int) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):  # CPU 7 does not tell
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(siblings + "\n")
    assert detect._physical_cores(tmp_path, affinity) == cores


def test_caches(tmp_path: Path) -> None:
    rows = [
        ("1", "Data", "32K", "0-1"),
        ("1", "Instruction", "32K", "0-1"),
        ("3", "Unified", "16384K", "0-3,8,12-15"),
    ]
    for index, row in enumerate(rows):
        folder = tmp_path / f"cache/index{index}"
        folder.mkdir(parents=True)
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), row, strict=True):
            (folder / name).write_text(text + "\n")
    assert detect._caches(tmp_path) == (
        detect.CacheLevel(1, 32 << 10, 2),
        detect.CacheLevel(3, 16 << 20, 9),
    )


@pytest.mark.parametrize(
    ("text", "mode"), [("always [madvise] never\n", "madvise"), ("always madvise [never]", "never"), ("", None)]
)
def test_huge_page_mode(text: str, mode: str | None) -> None:
    assert detect._huge_page_mode(text) == mode


def test_machine() -> None:
    machine = detect.detect()
    assert machine.instruction_sets == tuple(instruction_sets())
    assert machine.instruction_sets[0] == "generic"
    assert machine.memory_bytes > 0


@pytest.mark.parametrize("isa", instruction_sets())
def test_ceilings_are_positive_where_there_is_a_unit(isa: str) -> None:
    device = CpuBackend(1, isa).device
    assert 0 < device.measure_read_bandwidth(1 << 24, 2) < 1e13  # a stop of this process in between only lowers it
    assert 0 < device.measure_peak("f32", 100_000) < 1e13
    assert (device.measure_peak("int8", 100_000) > 0) == (isa != "generic")
    assert (device.measure_peak("bf16", 100_000) > 0) == (isa == "avx512_bf16")
    with pytest.raises(ValueError, match="f32, bf16 or int8"):
        device.measure_peak("f64", 1)
