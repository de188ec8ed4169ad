"""One process that tries constraints out, as the front sees it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from itertools import count
from typing import Any, cast

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError, RequestError, UnavailableError, VivaceError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.compiler_messages import Answer, Prepare, Try, Verdict
from vivace.worker.engine_child import worker_command

RETRY_AFTER_S = 1.0
REAP_INTERVAL_S = 0.005
_MODULE = "vivace.worker.compiler_process"
logger = logging.getLogger(__name__)


class CompilerChild(asyncio.Protocol):
    """Spawn it, then `ask`. When it is lost every open question raises `UnavailableError`."""

    def __init__(self, config: EngineConfig) -> None:
        self.is_lost = False
        self.prepared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._config = config
        self._decoder: FrameDecoder[Answer] = FrameDecoder(Answer)
        self._questions: dict[int, asyncio.Future[Verdict]] = {}
        self._numbers = count()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def spawn(self) -> None:
        """Start the process. Raises `EngineError` where the system refuses."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*worker_command()[:-1], _MODULE, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not end in the front's output
                    process_group=0,  # Ctrl-C is the front's to answer
                )
            except OSError as error:
                ours.close()
                raise EngineError(f"the process that compiles constraints could not be started: {error}") from error
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def ask(self, outputs: StructuredOutputs) -> Verdict:
        """How compiling it went.

        Raises `UnavailableError` when the process is lost meanwhile, `RequestError` when the model has no tokenizer.
        """
        await asyncio.shield(self.prepared)
        if self._transport is None or self.is_lost:
            raise _lost()
        number = next(self._numbers)
        self._questions[number] = asyncio.get_running_loop().create_future()
        self._transport.write(encode_frame(Try(number, outputs)))
        return await self._questions[number]

    async def close(self) -> None:
        """End the process; none is left when this returns."""
        if self._transport is not None:
            self._transport.abort()
        if self._process is not None:
            self._process.kill()
            while self._process.poll() is None:
                await asyncio.sleep(REAP_INTERVAL_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport.write(encode_frame(Prepare(self._config)))

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._decoder.feed(data):
                self._take(answer)
        except EngineError:
            logger.exception("the process that compiles constraints sent what is no answer")
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost = True
        if self._process is not None:
            self._process.kill()
        if not self.prepared.done():
            self._fail(self.prepared, _lost())
        for question in self._questions.values():
            self._fail(question, _lost())
        self._questions.clear()

    def _take(self, answer: Answer) -> None:
        if isinstance(answer, Verdict):
            question = self._questions.pop(answer.number, None)
            if question is not None and not question.done():
                question.set_result(answer)
        elif answer.failure is not None:
            self._fail(self.prepared, RequestError(f"constraints cannot be compiled: {answer.failure}"))
        else:
            self.prepared.set_result(None)

    @staticmethod
    def _fail(future: asyncio.Future[Any], error: VivaceError) -> None:
        if not future.done():
            future.set_exception(error)
            future.exception()  # read here: nobody may be waiting any more


def _lost() -> UnavailableError:
    return UnavailableError("the process that compiles constraints was lost", retry_after_s=RETRY_AFTER_S)
