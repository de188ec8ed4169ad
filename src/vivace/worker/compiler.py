"""Constraints are tried out before their requests are admitted, in a process that may die of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict

from vivace.core.config import EngineConfig
from vivace.core.errors import OverloadedError, RequestError, VivaceError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.worker.compiler_child import RETRY_AFTER_S, CompilerChild
from vivace.worker.compiler_messages import Verdict

MAX_WAITING = 64
MAX_VERDICTS = 4096  # remembered; some 200 bytes each
_PARAM = "structured_outputs"


class CompilerClient:
    """Asks one process, and starts another when it is lost. What was answered once is answered at once.

    A trial takes at most 0.2 s of processor time and 0.9 s in all; what is accepted costs the engine as much at most.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()  # None: accepted
        self._waiting: dict[bytes, asyncio.Task[Verdict]] = {}
        self._child: CompilerChild | None = None
        self._spawning = asyncio.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Spawn the process, without waiting for its tokenizer. Raises `EngineError` where the system refuses."""
        await self._running()

    async def check(self, outputs: StructuredOutputs) -> None:
        """Return when the constraint can be enforced.

        Raises `RequestError` for one that is wrong or too complex, `OverloadedError` when too many wait or the
        machine is too busy to tell, `UnavailableError` when the process is lost meanwhile.
        """
        key = hashlib.blake2b(repr(outputs).encode(), digest_size=16).digest()
        if key not in self._verdicts:
            self._remember(key, await self._verdict(key, outputs))
        self._verdicts.move_to_end(key)
        message = self._verdicts[key]
        if message is not None:
            raise RequestError(message, param=_PARAM)

    async def close(self) -> None:
        """End the process. No child is left when this returns."""
        self._is_closed = True
        async with self._spawning:
            if self._child is not None:
                await self._child.close()
        for task in list(self._waiting.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, VivaceError):
                await task

    async def _verdict(self, key: bytes, outputs: StructuredOutputs) -> Verdict:
        """Equal constraints that wait together are tried once."""
        task = self._waiting.get(key)
        if task is None:
            if len(self._waiting) >= MAX_WAITING:
                raise OverloadedError("too many constraints wait to be compiled", retry_after_s=RETRY_AFTER_S)
            task = self._waiting[key] = asyncio.create_task(self._ask(outputs))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)  # one who leaves does not end it for the others

    async def _ask(self, outputs: StructuredOutputs) -> Verdict:
        return await (await self._running()).ask(outputs)

    def _forget(self, key: bytes, done: asyncio.Task[Verdict]) -> None:
        del self._waiting[key]
        if not done.cancelled():
            done.exception()  # read here: everybody may have left

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        if verdict.outcome == "late":
            raise OverloadedError(
                "the machine is too busy to compile the constraint in time", retry_after_s=RETRY_AFTER_S
            )
        self._verdicts[key] = None if verdict.outcome == "accepted" else verdict.message
        if len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)

    async def _running(self) -> CompilerChild:
        async with self._spawning:
            if self._child is not None and self._child.is_lost:
                await self._child.close()
                self._child = None
            if self._child is None:
                child = CompilerChild(self._config)
                await child.spawn()
                self._child = child
            return self._child
