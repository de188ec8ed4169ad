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


def install_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, processes: str = "") -> None:
    """Says `gpus` of what is installed, `processes` of what works on it."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\ncase "$1" in\n--query-gpu=*) {gpus};;\n*) {processes or "exit 0"};;\nesac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


def tell_minors(proc: Path, **minors: int) -> None:
    """What the driver says of the GPUs at these places on the bus."""
    for place, minor in minors.items():
        folder = proc / "driver" / "nvidia" / "gpus" / f"0000:{place}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n")


A100 = "GPU-aa, 00000000:3B:00.0, NVIDIA A100-SXM4-80GB, 81920, 570.86.15, Disabled"
H100 = "GPU-bb, 00000000:AF:00.0, NVIDIA H100 80GB HBM3, 81559, 570.86.15, Disabled"
TWO = f"echo '{A100}'; echo '{H100}'"
FACTS_A100 = {"name": "NVIDIA A100-SXM4-80GB", "memory_gib": 80, "driver": "570.86.15"}
FACTS_H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.6, "driver": "570.86.15"}


def test_the_gpu_on_which_the_engine_has_work(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever files it has open."""
    install_tool(tmp_path, monkeypatch, TWO, f"echo '{OTHER}, GPU-aa'; echo '{ENGINE}, GPU-bb'")
    monkeypatch.setattr(local_gpu, "_library_versions", lambda: {"torch": "2.13.0", "triton": "3.9.0"})
    tell_minors(proc, af=0, **{"3b": 1})
    found = gpu_facts(Target(HERE, process=SERVER), proc)
    assert found == {"gpu": FACTS_H100, "torch": "2.13.0", "triton": "3.9.0"}
    assert gpu_words({"processor": "x", **found}) == (
        "NVIDIA H100 80GB HBM3, 79.6 GiB, driver 570.86.15, torch 2.13.0, triton 3.9.0"
    )


@pytest.mark.parametrize(("minors", "expected"), [((0, 1), FACTS_H100), ((1, 0), FACTS_A100)])
def test_the_gpu_whose_file_is_open(
    minors: tuple[int, int], expected: dict[str, object], proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its place on the bus: numbers of files and of lists may differ."""
    install_tool(tmp_path, monkeypatch, TWO, "echo '9, GPU-aa'")
    tell_minors(proc, af=minors[1], **{"3b": minors[0]})
    assert gpu_facts(Target(HERE, process=SERVER), proc)["gpu"] == expected


def test_several_of_another_server(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose libraries are not ours to name."""
    second = A100.replace("GPU-aa", "GPU-cc").replace("3B", "5E")
    processes = f"echo '{OTHER}, GPU-aa'; echo '{OTHER}, GPU-cc'"
    install_tool(tmp_path, monkeypatch, f"echo '{A100}'; echo '{second}'", processes)
    monkeypatch.setattr(local_gpu, "listening_process", lambda port, _: OTHER if port == 8000 else None)
    found = gpu_facts(Target(HERE), proc)
    assert found == {"gpu": FACTS_A100 | {"count": 2}}
    assert gpu_words(found) == "2 x NVIDIA A100-SXM4-80GB, 80 GiB, driver 570.86.15"
    assert gpu_facts(Target(Address.parse("http://10.1.2.3:8000")), proc) == {}


def test_what_may_be_any_of_several(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has all files open: of one kind the kind is told, not the number; of two kinds nothing."""
    monkeypatch.setattr(local_gpu, "listening_process", lambda *_: OTHER)
    tell_minors(proc, af=0, **{"3b": 1})
    install_tool(tmp_path, monkeypatch, TWO)
    assert gpu_facts(Target(HERE), proc) == {}
    (tmp_path / "bin" / "nvidia-smi").unlink()
    (tmp_path / "bin").rmdir()
    local_gpu._installed.cache_clear()
    same = A100.replace("GPU-aa", "GPU-cc").replace("3B", "AF")
    install_tool(tmp_path, monkeypatch, f"echo '{A100}'; echo '{same}'")
    assert gpu_facts(Target(HERE), proc) == {"gpu": FACTS_A100}


def test_files_that_nobody_explains(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container one GPU is the one; which of two a file is cannot be known."""
    install_tool(tmp_path, monkeypatch, f"echo '{A100}'")
    assert gpu_facts(Target(HERE, process=SERVER), proc)["gpu"] == FACTS_A100
    monkeypatch.setattr(local_gpu, "listening_process", lambda *_: OTHER)
    assert gpu_facts(Target(HERE), proc) == {}


def test_a_part_of_a_gpu_has_not_its_memory(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tool(tmp_path, monkeypatch, f"echo '{H100.replace('Disabled', 'Enabled')}'", f"echo '{ENGINE}, GPU-bb'")
    found = gpu_facts(Target(HERE, process=SERVER), proc)
    assert found["gpu"] == {"name": "NVIDIA H100 80GB HBM3 (MIG)", "driver": "570.86.15"}


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "echo '1, a, b'", TWO])
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
    install_tool(tmp_path, monkeypatch, "echo 'GPU-aa, 0000000F:01:00.0, NVIDIA GB10, [N/A], 580.95, [N/A]'")
    found = gpu_facts(Target(HERE, process=SERVER), proc)
    assert found["gpu"] == {"name": "NVIDIA GB10", "driver": "580.95"}
    assert gpu_words({"gpu": found["gpu"]}) == "NVIDIA GB10, driver 580.95"


@pytest.mark.parametrize("machine", [{}, {"processor": "x"}, {"gpu": None}, {"gpu": "x"}, {"gpu": {}}])
def test_records_without_one(machine: dict[str, object]) -> None:
    assert gpu_words(machine) == ""
