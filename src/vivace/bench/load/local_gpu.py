"""Which GPUs a server on this machine computes on: whose device files its processes hold open. What they are is
`nvidia-smi`'s to say; a CUDA context of our own would take the memory that is being measured. Linux only."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vivace.bench.load.resources import PROC, ProcessFamily, listening_process
from vivace.bench.load.target import Target

DEVICE_FILE = re.compile(r"/dev/nvidia(\d+)")
PATIENCE_S = 10.0
QUERY = ("--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits")
LIBRARIES = ("torch", "triton")


def gpu_facts(target: Target, proc: Path = PROC) -> dict[str, Any]:
    """For the record of a run: `gpu` with name, memory, driver and, of several, their number; with a server of our
    own the versions of `LIBRARIES` too. Empty for a server elsewhere, on the processor, or whose files are not ours
    to see."""
    process = target.process
    if process is None and target.address.is_local:
        process = listening_process(target.address.port, proc)
    if process is None:
        return {}
    used = _used(ProcessFamily(process, proc))
    known = [gpu for index, gpu in _installed() if index in used] if used else []
    if not known:
        return {}
    found: dict[str, Any] = {"gpu": known[0] | ({"count": len(known)} if len(known) > 1 else {})}
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


def _used(family: ProcessFamily) -> set[int]:
    matches = (DEVICE_FILE.fullmatch(file) for file in family.open_files())
    return {int(match[1]) for match in matches if match}


@cache
def _installed() -> list[tuple[int, dict[str, Any]]]:
    """By the number of its device file, which is its index where nobody renumbered them."""
    try:
        told = subprocess.run(["nvidia-smi", *QUERY], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in told.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit():
            gpu: dict[str, Any] = {"name": fields[1]}
            if fields[2].isdigit():  # MiB; "[N/A]" where memory is shared
                gpu["memory_gib"] = round(int(fields[2]) / 1024, 1)
            found.append((int(fields[0]), gpu | {"driver": fields[3]}))
    return found


def _library_versions() -> dict[str, str]:
    """Installed beside us, where our own server runs; nothing is imported."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
