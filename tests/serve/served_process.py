"""`vivace serve` in a process of its own: what it says, where it listens, who its engine is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

API_KEY = "test-key"
DEADLINE_S = 120.0  # for a start on a machine that others use as well
SMALL = (
    *("--num-threads", "1", "--num-kv-blocks", "2048", "--max-num-seqs", "32", "--max-num-batched-tokens", "512"),
    *("--max-queue-s", "600"),  # nobody is refused for the machine's slowness, where that is not what is tested
)


class ServedProcess:
    """One server. Its log lines are JSON; `line_with` waits for one of them."""

    def __init__(
        self,
        *flags: str,
        port: int = 0,
        api_key: str | None = API_KEY,
        environment: dict[str, str] | None = None,
        max_files: int | None = None,
    ) -> None:
        keys = () if api_key is None else ("--api-key", api_key)
        own = ("--port", str(port), "--log-format", "json", *keys)
        limit = () if max_files is None else ("sh", "-c", f'ulimit -n {max_files}; exec "$0" "$@"')
        command = (*limit, sys.executable, "-m", "vivace", "serve", *flags, *own)
        self.api_key = api_key
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines: list[str] = []
        self.logs: list[dict[str, Any]] = []  # the lines that are ours
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @cached_property
    def port(self) -> int:
        message = self.line_with("listening on ")["message"]
        return int(message.partition(";")[0].rpartition(":")[2])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine_pid(self) -> int:
        """The child that holds the model, once there is one; another one compiles constraints."""
        engines: list[int] = []

        def is_there() -> bool:
            engines[:] = [pid for pid in child_pids(self.pid) if b"vivace.worker" in command_of(pid)]
            return len(engines) == 1

        assert eventually(is_there), engines
        return engines[0]

    def line_with(self, text: str) -> dict[str, Any]:
        """The first log line whose message contains `text`; waits for it."""
        found = self.wait_for(lambda: next((line for line in self.logs if text in line["message"]), None))
        assert found is not None, f"no log line with {text!r} in:\n" + "\n".join(self.lines)
        return found

    def wait_for(self, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        """Until a log line makes `condition()` true, or the process has ended; gives its last value."""
        with self._news:
            self._news.wait_for(lambda: condition() or not self._reader.is_alive(), deadline_s)
            return condition()

    def wait_ready(self) -> ServedProcess:
        self.line_with("serving ")
        return self

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait_ended(self) -> int:
        """The exit code; every line has been read."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def end(self) -> None:
        """Whatever happened, leave no process behind."""
        if self.process.poll() is None:
            self.ask_to_end()
            self.ask_to_end()
            try:
                self.process.wait(30.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30.0)
        self._reader.join(30.0)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("{"):
                    self.logs.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


@contextmanager
def served(
    *flags: str,
    port: int = 0,
    api_key: str | None = API_KEY,
    environment: dict[str, str] | None = None,
    max_files: int | None = None,
) -> Iterator[ServedProcess]:
    """A server that has begun; `wait_ready()` where it must have loaded. `max_files`: that it may have open."""
    process = ServedProcess(*flags, port=port, api_key=api_key, environment=environment, max_files=max_files)
    try:
        yield process
    finally:
        process.end()


def child_pids(pid: int) -> list[int]:
    """Direct children, of all threads."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # this thread has ended
            children += map(int, (task / "children").read_text().split())
    return children


def command_of(pid: int) -> list[bytes]:
    """Its words; none where the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def state_of(pid: int) -> str:
    """One letter as of `ps`; X where the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def is_gone(pid: int) -> bool:
    """Whether it runs no more; its parent may not have noticed."""
    return state_of(pid) in "XZ"


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """The process stops between two of its instructions, and goes on afterwards if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        assert eventually(lambda: state_of(pid) == "T")
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def resident_bytes(pid: int) -> int:
    """Physical memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def eventually(condition: Callable[[], bool], deadline_s: float = 60.0) -> bool:
    """Poll what no event tells, such as the system's tables."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.02)
    return True
