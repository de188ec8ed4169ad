"""The front's end of the channel, and the process behind it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError, VivaceError
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.info import EngineInfo
from vivace.worker.load_watch import LoadWatch, written_bytes
from vivace.worker.messages import Command, Configure, Failed, Loading, Ready, Report
from vivace.worker.refusal import error_from_data

REAP_INTERVAL_S = 0.005
REAP_PATIENCE_S = 60.0  # freeing 100 GB of huge pages takes seconds
logger = logging.getLogger(__name__)


def worker_command() -> tuple[str, ...]:
    """Python with our entry point. The working directory is on its path only where it is on ours."""
    safe_path = () if {"", os.getcwd()} & set(sys.path) else ("-P",)
    return (sys.executable, *safe_path, "-m", "vivace.worker")


class EngineChild(asyncio.Protocol):
    """One engine process. It is told what to load when the connection stands; `ready` then gives its facts.

    `on_report` gets every report after that. `lost` is done when nothing can come any more.
    """

    def __init__(self, config: EngineConfig, on_report: Callable[[Report], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[EngineInfo] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.last_heard = time.monotonic()
        self.on_progress: Callable[[int, int], None] | None = None
        self.progress = "no parameter was packed"
        self.trace: str | None = None  # of the error that ended the engine, for the log
        self._config = config
        self._on_report = on_report
        self._decoder: FrameDecoder[Report] = FrameDecoder(Report)
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: VivaceError | None = None

    async def spawn(self, command: Sequence[str]) -> None:
        """Start the process and connect. Raises `EngineError` where the system refuses."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not end in the front's output
                    process_group=0,  # Ctrl-C is the front's to answer
                )
            except OSError as error:
                ours.close()
                raise EngineError(f"the engine's process could not be started: {error}") from error
        ours.setblocking(False)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()
            raise

    async def loaded_or_lost(self, patience_s: float) -> None:
        """A load that stands still for so long is ended."""
        waiters: list[asyncio.Future[Any]] = [self.ready, self.lost]
        watch = LoadWatch(patience_s, lambda: None if self.pid is None else written_bytes(self.pid))
        while not any(waiter.done() for waiter in waiters):
            await asyncio.wait(waiters, timeout=patience_s / 8, return_when=asyncio.FIRST_COMPLETED)
            if watch.is_still(self.last_heard) and not any(waiter.done() for waiter in waiters):
                self.fail(
                    EngineError(
                        f"loading stood still for {patience_s:g} s: {self.progress}, nothing written; look at the "
                        "disk, the network and the GPU that it needs, or give it longer with --load-timeout-s"
                    )
                )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def send(self, command: Command) -> None:
        """Never blocks. Raises `EngineError` for a message over the channel's limit."""
        if self._transport is not None and not self.lost.done():
            self._transport.write(encode_frame(command))

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: EngineError) -> None:
        """End the process for this reason."""
        self._failure = error
        self.kill()

    async def end(self) -> VivaceError:
        """Make sure that the process is gone; returns why it ended.

        One that the kernel holds (a disk or a device that does not answer) is left after `REAP_PATIENCE_S`.
        """
        self.kill()
        process = self._process
        if process is None:
            return EngineError("the engine's process was never started")
        killed = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - killed > REAP_PATIENCE_S:
                return self._failure or EngineError(f"the engine's process {process.pid} cannot be ended")
            await asyncio.sleep(REAP_INTERVAL_S)
        if self._transport is not None:
            await self.lost
        return self._failure or EngineError(f"the engine's process ended with {_status(process.returncode)}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.send(Configure(self._config))

    def data_received(self, data: bytes) -> None:
        self.last_heard = time.monotonic()
        try:
            for report in self._decoder.feed(data):
                self._take(report)
        except EngineError as error:
            self.fail(error)
        except Exception as error:  # a report that contradicts itself, or a bug of ours: start over
            logger.exception("a report of the engine could not be taken")
            self.fail(EngineError(f"a report of the engine could not be taken: {error!r}"))

    def connection_lost(self, _: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _take(self, report: Report) -> None:
        match report:
            case Loading(done, total):
                self.progress = f"{done} of {total} parameters were packed, or of CUDA graphs captured"
                if self.on_progress is not None:
                    self.on_progress(done, total)
            case Ready(info):
                if not self.ready.done():
                    self.ready.set_result(info)
            case Failed(error, trace):
                self._failure, self.trace = error_from_data(error), trace
            case _:
                self._on_report(report)


def _status(returncode: int) -> str:
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"
