"""Which GPUs a server on this machine computes on: those on which its processes have work, as `nvidia-smi` tells;
where it does not (in a container it sees other process ids), those whose device files they hold open. CUDA opens
every file that it may, and numbers devices in an order of its own (CUDA_VISIBLE_DEVICES), so a GPU is known by its
UUID and its place on the bus. A CUDA context of our own would take the memory that is being measured. Linux only."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vivace.bench.load.resources import PROC, ProcessFamily, listening_process
from vivace.bench.load.target import Target

DEVICE_FILE = re.compile(r"/dev/nvidia(\d+)")
PATIENCE_S = 10.0
GPUS = ("uuid", "pci.bus_id", "name", "memory.total", "driver_version", "mig.mode.current")
LIBRARIES = ("torch", "triton")


@dataclass(frozen=True, slots=True)
class _InstalledGpu:
    """`place`: on the bus, as /proc spells it. `facts`: for the record."""

    uuid: str
    place: str
    facts: dict[str, Any]


def gpu_facts(target: Target, proc: Path = PROC) -> dict[str, Any]:
    """For the record of a run: `gpu` with name, memory, driver and, of several, their number; with a server of our
    own the versions of `LIBRARIES` too. Empty for a server elsewhere, on the processor, or whose files are not ours
    to see, and where it could be one of several kinds. Memory is left out of a GPU that is cut into parts (MIG)."""
    process = target.process
    if process is None and target.address.is_local:
        process = listening_process(target.address.port, proc)
    if process is None:
        return {}
    gpu = _gpu_of(ProcessFamily(process, proc), proc)
    if gpu is None:
        return {}
    found: dict[str, Any] = {"gpu": gpu}
    return found | (_library_versions() if target.process is not None else {})


def gpu_words(machine: dict[str, Any]) -> str:
    """The GPU of a run's record in a line; empty where it has none, as records of older versions."""
    gpu = machine.get("gpu")
    if not isinstance(gpu, dict) or "name" not in gpu:
        return ""
    count = f"{gpu['count']} x " if gpu.get("count") else ""
    parts = [f"{count}{gpu['name']}"]
    parts += [f"{gpu['memory_gib']:g} GiB"] if isinstance(gpu.get("memory_gib"), int | float) else []
    parts += [f"driver {gpu['driver']}"] if gpu.get("driver") else []
    return ", ".join(parts + [f"{name} {machine[name]}" for name in LIBRARIES if machine.get(name)])


def _gpu_of(family: ProcessFamily, proc: Path) -> dict[str, Any] | None:
    files = {int(match[1]) for match in map(DEVICE_FILE.fullmatch, family.open_files()) if match}
    if not files:
        return None
    installed, working = _installed(), _with_work(family.members)
    if used := [gpu for gpu in installed if gpu.uuid in working]:
        return _of_one_kind(used, is_counted=True)
    return _of_one_kind(_opened(files, installed, proc), is_counted=False)


def _of_one_kind(gpus: list[_InstalledGpu], *, is_counted: bool) -> dict[str, Any] | None:
    """What is the same of all of them; None where they are of several kinds."""
    if not gpus or any(gpu.facts != gpus[0].facts for gpu in gpus):
        return None
    return gpus[0].facts | ({"count": len(gpus)} if is_counted and len(gpus) > 1 else {})


def _opened(files: set[int], installed: list[_InstalledGpu], proc: Path) -> list[_InstalledGpu]:
    """Those with these device files, of which some may not be used. Where the driver does not tell whose file is
    which, a single one is the one that is installed."""
    places = dict(_places(proc))
    if not places and len(files) == len(installed) == 1:
        return installed
    by_place = {gpu.place: gpu for gpu in installed}
    found = [by_place.get(places.get(file, "")) for file in files]
    return [gpu for gpu in found if gpu is not None] if None not in found else []


def _places(proc: Path) -> Iterator[tuple[int, str]]:
    """Numbers of device files, and the GPUs' places on the bus."""
    for folder in sorted((proc / "driver" / "nvidia" / "gpus").glob("*")):
        try:
            told = re.search(r"^Device Minor:\s*(\d+)", (folder / "information").read_text(), re.MULTILINE)
        except OSError:
            continue
        if told:
            yield int(told[1]), folder.name.lower()


def _with_work(processes: list[int]) -> set[str]:
    """UUIDs of the GPUs on which these have a context."""
    rows = _told("--query-compute-apps=pid,gpu_uuid", 2)
    return {uuid for pid, uuid in rows if pid.isdigit() and int(pid) in processes}


@cache
def _installed() -> list[_InstalledGpu]:
    found = []
    for uuid, place, name, memory, driver, mig in _told(f"--query-gpu={','.join(GPUS)}", len(GPUS)):
        facts: dict[str, Any] = {"name": f"{name} (MIG)" if mig == "Enabled" else name}
        if memory.isdigit() and mig != "Enabled":  # MiB; "[N/A]" where memory is shared
            facts["memory_gib"] = round(int(memory) / 1024, 1)
        found.append(_InstalledGpu(uuid, place.lower()[-len("0000:00:00.0") :], facts | {"driver": driver}))
    return found


def _told(query: str, num_fields: int) -> list[list[str]]:
    """Rows of `nvidia-smi`; none where it is not there or does not answer so."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in told.stdout.splitlines()]
    return [row for row in rows if len(row) == num_fields]


def _library_versions() -> dict[str, str]:
    """Installed beside us, where our own server runs; nothing is imported."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
