"""Which GPU a local server computes on: in a /proc of our own, with a stand-in for nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.bench.load import local_gpu
from vivace.bench.load.address import Address
from vivace.bench.load.local_gpu import gpu_facts, gpu_words
from vivace.bench.load.target import Target

HERE = Address.parse("http://127.0.0.1:8000")
SERVER, ENGINE, OTHER = 40, 41, 42


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    local_gpu._installed.cache_clear()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A server, its engine process, and somebody else who has all GPUs open."""
    for pid, parent, files in (
        (SERVER, 1, ["/dev/null", "socket:[7]"]),
        (ENGINE, SERVER, ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia1"]),
        (OTHER, 1, ["/dev/nvidia0", "/dev/nvidia1"]),
    ):
        process = tmp_path / "proc" / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "stat").write_text(f"{pid} (vivace (x) y) S {parent} 1 1")
        for number, file in enumerate(files):
            (process / "fd" / str(number)).symlink_to(file)
    return tmp_path / "proc"


def install_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


TWO = "echo '0, NVIDIA A100-SXM4-80GB, 81920, 570.86.15'; echo '1, NVIDIA H100 80GB HBM3, 81559, 570.86.15'"


def test_the_gpu_that_the_engine_has_open(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(tmp_path, monkeypatch, TWO)
    monkeypatch.setattr(local_gpu, "_library_versions", lambda: {"torch": "2.13.0", "triton": "3.9.0"})
    found = gpu_facts(Target(HERE, process=SERVER), proc)
    assert found == {
        "gpu": {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6, "driver": "570.86.15"},
        "torch": "2.13.0",
        "triton": "3.9.0",
    }
    assert gpu_words({"processor": "x", **found}) == (
        "NVIDIA H100 80GB HBM3, 79.6 GiB, driver 570.86.15, torch 2.13.0, triton 3.9.0"
    )


def test_several_of_another_server(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose libraries are not ours to name."""
    install_tool(tmp_path, monkeypatch, TWO)
    monkeypatch.setattr(local_gpu, "listening_process", lambda port, _: OTHER if port == 8000 else None)
    found = gpu_facts(Target(HERE), proc)
    assert found == {"gpu": {"name": "NVIDIA A100-SXM4-80GB", "memory_gib": 80, "driver": "570.86.15", "count": 2}}
    assert gpu_words(found) == "2 x NVIDIA A100-SXM4-80GB, 80 GiB, driver 570.86.15"
    assert gpu_facts(Target(Address.parse("http://10.1.2.3:8000")), proc) == {}


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "echo '1, a, b'", "echo '0, NVIDIA A100, 1, 2'"])
def test_nothing_where_nobody_tells(script: str, proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(tmp_path, monkeypatch, script)
    assert gpu_facts(Target(HERE, process=SERVER), proc) == {}


def test_no_tool_and_no_gpu(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_facts(Target(HERE, process=SERVER), proc) == {}
    (proc / str(ENGINE) / "fd" / "2").unlink()
    install_tool(tmp_path, monkeypatch, TWO)
    local_gpu._installed.cache_clear()
    assert gpu_facts(Target(HERE, process=SERVER), proc) == {}


def test_memory_that_is_not_told(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(tmp_path, monkeypatch, "echo '1, NVIDIA GB10, [N/A], 580.95'")
    found = gpu_facts(Target(HERE, process=SERVER), proc)
    assert found["gpu"] == {"name": "NVIDIA GB10", "driver": "580.95"}
    assert gpu_words({"gpu": found["gpu"]}) == "NVIDIA GB10, driver 580.95"


@pytest.mark.parametrize("machine", [{}, {"processor": "x"}, {"gpu": None}, {"gpu": "x"}, {"gpu": {}}])
def test_records_without_one(machine: dict[str, object]) -> None:
    assert gpu_words(machine) == ""
