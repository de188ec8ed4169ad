"""`vivace serve` as a child of this process: it listens on a free port, and ends when its parent does."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vivace.core.errors import TargetError

POLL_S = 0.05
END_S = 60.0
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True, slots=True)
class OwnServer:
    url: str
    pid: int


@contextmanager
def own_server(arguments: Sequence[str]) -> Iterator[OwnServer]:
    """A server that is ready, for as long as the block runs. `arguments` are those of `vivace serve`.

    Raises `TargetError` with what it said when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as directory:
        port_file, log = Path(directory) / "port", Path(directory) / "log"
        command = [sys.executable, "-m", "vivace", "serve", *arguments, "--port", "0", "--port-file", str(port_file)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--no-access-log"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                preexec_fn=_end_with_parent(),
            )
        try:
            yield OwnServer(f"http://127.0.0.1:{_ready_port(process, port_file, log)}", process.pid)
        finally:
            _end(process)


def _end_with_parent() -> Callable[[], object] | None:
    """Run in the child: even a parent that is killed takes it along. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))


def _ready_port(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> int:
    while process.poll() is None:
        if port_file.exists():
            port = int(port_file.read_text())
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                    return port
            except (urllib.error.URLError, OSError):
                pass
        time.sleep(POLL_S)
    said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise TargetError(f"the server did not start: {said[-1].removeprefix('vivace: ')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
