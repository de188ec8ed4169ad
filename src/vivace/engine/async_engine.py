"""The engine on its own thread, for asyncio: many streams, none waits for another's step to be asked for."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import count

from vivace.core.errors import EngineError
from vivace.core.events import RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.engine.loader import LoadedEngine
from vivace.engine.output import OutputProcessor, TextDelta


class AsyncEngine:
    """Runs a loaded engine in a thread; `generate` streams one request. Use as an async context manager."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self.loaded = loaded
        self._engine = loaded.engine
        self._outputs = OutputProcessor(loaded.engine, loaded.tokenizer)
        self._streams: dict[str, _Stream] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._ids = count()
        self._thread = threading.Thread(target=self._run, name="vivace-engine", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> AsyncIterator[TextDelta | RequestOutput]:
        """Yield each `TextDelta`, then the finished `RequestOutput`. Leaving the iterator early aborts the request.

        Raises `RequestError` when the request is wrong and `EngineError` when the engine died.
        """
        request_id = request_id if request_id is not None else f"async-{next(self._ids)}"
        stream = _Stream(asyncio.get_running_loop())
        params = params or self.loaded.generation.defaults.params()
        if not self._post(lambda: self._add(request_id, stream, prompt, params, priority, cache_salt)):
            raise EngineError(self._end_reason())
        finished = False
        try:
            while not finished:
                item = await stream.queue.get()
                if isinstance(item, BaseException):
                    finished = True
                    raise item
                finished = isinstance(item, RequestOutput)
                yield item
        finally:
            if not finished:
                self._post(lambda: self._engine.abort(request_id))

    async def abort(self, request_id: str) -> None:
        """End a request; its stream yields what it has and finishes with reason "abort"."""
        self._post(lambda: self._engine.abort(request_id))

    async def close(self) -> None:
        """Abort everything and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _post(self, command: Callable[[], None]) -> bool:
        """Hand a command to the engine's thread. False when the thread takes no more."""
        with self._wake:
            if self._closing:
                return False
            self._commands.append(command)
            self._wake.notify()
            return True

    def _add(
        self,
        request_id: str,
        stream: _Stream,
        prompt: str | list[int],
        params: SamplingParams,
        priority: int,
        cache_salt: bytes,
    ) -> None:
        text = prompt if isinstance(prompt, str) else None
        try:
            token_ids = self.loaded.encode(prompt) if isinstance(prompt, str) else list(prompt)
            self._engine.add(request_id, token_ids, params, priority=priority, cache_salt=cache_salt)
        except Exception as error:
            stream.put(error)
            return
        self._outputs.register(request_id, text, token_ids, params)
        self._streams[request_id] = stream

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._run_commands()
                self._step()
        except BaseException as error:  # every stream must hear of it: nothing is lost in silence
            self._failure = error
        with self._wake:
            self._closing = True
        self._run_commands()  # those that came in the last moment get their answer below
        for stream in self._streams.values():
            stream.put(EngineError(self._end_reason()))
        self._streams.clear()

    def _run_commands(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _end_reason(self) -> str:
        return f"the engine stopped: {self._failure}" if self._failure else "the engine was closed"

    def _wait_for_work(self) -> bool:
        """Sleep until there is a command or a step to run. False when the engine was closed."""
        with self._wake:
            while not (self._closing or self._commands):
                idle_s = self._engine.idle_s
                if idle_s == 0.0:
                    break
                self._wake.wait(idle_s)
            return not self._closing

    def _step(self) -> None:
        deltas = self._outputs.process(self._engine.step())
        for delta in deltas:
            self._streams[delta.request_id].put(delta)
        # Only now: several continuations of a request may end in the same step.
        for request_id in dict.fromkeys(delta.request_id for delta in deltas if delta.finished):
            if self._outputs.output(request_id).finished:
                self._streams.pop(request_id).put(self._outputs.take(request_id))


class _Stream:
    """Carries items from the engine's thread into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.queue: asyncio.Queue[TextDelta | RequestOutput | BaseException] = asyncio.Queue()

    def put(self, item: TextDelta | RequestOutput | BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
