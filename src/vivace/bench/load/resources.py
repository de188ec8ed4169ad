"""What a local server takes of the machine: memory of its processes, energy of the processor. Linux only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
POWERCAP = Path("/sys/class/powercap")
LISTEN = "0A"  # of /proc/net/tcp


def listening_process(port: int, proc: Path = PROC) -> int | None:
    """Who listens on a port of this machine; None where that is not visible."""
    sockets = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listeners(proc / "net" / name, port)}
    return next((pid for pid in _pids(proc) if sockets and sockets & set(_open_files(proc / str(pid)))), None)


class ProcessFamily:
    """A process and its children. Looked up when one of them is gone: reading every process takes milliseconds."""

    def __init__(self, pid: int, proc: Path = PROC) -> None:
        self._pid = pid
        self._proc = proc
        self._members = self._family()

    def resident_bytes(self) -> float | None:
        """Memory that they hold in RAM; pages that two of them share count twice. None: all have ended."""
        sizes = [_resident(self._proc / str(member)) for member in self._members]
        if None in sizes:
            self._members = self._family()
            sizes = [_resident(self._proc / str(member)) for member in self._members]
        told = [size for size in sizes if size is not None]
        return float(sum(told)) if told else None

    @property
    def members(self) -> list[int]:
        """Process ids, looked up now."""
        return self._family()

    def open_files(self) -> set[str]:
        """What they hold open, as far as it is ours to see."""
        return {file for member in self._family() for file in _open_files(self._proc / str(member))}

    def _family(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for other in _pids(self._proc):
            children.setdefault(_parent(self._proc / str(other)), []).append(other)
        family = [self._pid]
        for member in family:
            family += children.get(member, [])
        return family


class EnergyCounter:
    """Joules that the processor's packages used (Intel's and AMD's RAPL), since it was made; wraps are undone."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._last: dict[Path, int] = {}
        self._joules = 0.0
        for package in sorted(powercap.glob("intel-rapl:*")):
            is_package = package.name.count(":") == 1 and _text(package / "name").startswith("package")
            value = _number(package / "energy_uj")
            if is_package and value is not None:
                self._last[package] = value

    def counters(self) -> dict[str, float]:
        """`energy_joules_total`, or nothing where the machine does not tell (often it tells root alone)."""
        for package, last in self._last.items():
            value = _number(package / "energy_uj")
            if value is None:
                continue
            if value < last:
                self._joules += (_number(package / "max_energy_range_uj") or last) / 1e6
            self._joules += (value - last) / 1e6
            self._last[package] = value
        return {"energy_joules_total": self._joules} if self._last else {}


def _listeners(table: Path, port: int) -> Iterator[str]:
    for line in _text(table).splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _open_files(process: Path) -> Iterator[str]:
    try:
        for descriptor in (process / "fd").iterdir():
            yield str(descriptor.readlink())
    except OSError:
        return  # another user's process, or one that has just ended


def _pids(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def _parent(process: Path) -> int:
    fields = _text(process / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _resident(process: Path) -> int | None:
    for line in _text(process / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
