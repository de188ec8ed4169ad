"""`vivace serve` in a process of its own, for as long as a block runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0
SMALL = str(Path(__file__).with_name("smollm2-135m.json"))


def shared_tokenizer(name: str) -> str:
    """Random weights come without one, and without text nothing is streamed."""
    beside = Path(__file__).parents[1] / ".." / "shared"
    directory = Path(os.environ.get("VIVACE_SHARED", beside)).resolve() / "tokenizers" / name
    if not directory.is_dir():
        raise SystemExit(
            f"no tokenizer at {directory}: set VIVACE_SHARED, or give --tokenizer among the server's flags"
        )
    return str(directory)


def dummy_flags(config: str) -> list[str]:
    """Flags of a server with random int4 weights of that shape, and a vocabulary that covers it."""
    tokenizer = shared_tokenizer("smollm2" if config == SMALL else "qwen2.5")
    return ["--load-format", "dummy", "--config", config, "--quantization", "int4", "--tokenizer", tokenizer]


@dataclass(frozen=True)
class ServerProcess:
    """The front; the engine is its child."""

    port: int
    pid: int

    @property
    def cpu_s(self) -> float:
        """Processor time that the front has used, without the engine's."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_server(flags: Sequence[str]) -> Iterator[ServerProcess]:
    """A server that is ready. What it logs goes to stderr."""
    with tempfile.TemporaryDirectory() as directory:
        port_file = Path(directory) / "port"
        command = [sys.executable, "-m", "vivace", "serve", *flags, "--port", "0", "--port-file", str(port_file)]
        process = subprocess.Popen([*command, "--no-access-log"])
        try:
            yield ServerProcess(_ready_port(process, port_file), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)


def _ready_port(process: subprocess.Popen[bytes], port_file: Path) -> int:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode}")
        if port_file.exists():
            port = int(port_file.read_text())
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                    return port
            except (urllib.error.HTTPError, OSError):
                pass
        time.sleep(0.05)
    raise SystemExit(f"the server was not ready within {START_S:.0f} s")
