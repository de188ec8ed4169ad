"""The engine on its own thread, for asyncio: many streams, none waits for another's step to be asked for."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import count

from vivace.core.errors import EngineError
from vivace.core.events import EmbeddingOutput, RequestOutput
from vivace.core.sampling import SamplingParams
from vivace.core.sequence import Pooling
from vivace.engine.loader import LoadedEngine
from vivace.engine.output import OutputProcessor, TextDelta
from vivace.engine.pooling import POOLING_PARAMS, embedding_output


class AsyncEngine:
    """Runs a loaded engine in a thread; `generate` streams, `embed` gives a vector. An async context manager."""

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

    def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> AsyncGenerator[TextDelta | RequestOutput, None]:
        """Yield each `TextDelta`, then the finished `RequestOutput`. Leaving the iterator early aborts the request.

        Raises `RequestError` when the request is wrong and `EngineError` when the engine died.
        """
        params = params or self.loaded.generation.defaults.params()
        return self._items(_Order(self._name(request_id), prompt, params, priority, cache_salt))

    async def embed(
        self,
        prompt: str | list[int],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> EmbeddingOutput:
        """One vector for a prompt, as `LLM.embed`; others are computed beside it. Cancelling it aborts the request.

        Raises as `generate`, and `EngineError` where a hidden state is not finite or the request was aborted.
        """
        order = _Order(self._name(request_id), prompt, POOLING_PARAMS, priority, cache_salt, pooling)
        output: RequestOutput | None = None
        async with aclosing(self._items(order)) as items:
            async for item in items:
                output = item if isinstance(item, RequestOutput) else output
        assert output is not None
        return embedding_output(output, order.embedding, normalize=normalize)

    def _name(self, request_id: str | None) -> str:
        return request_id if request_id is not None else f"async-{next(self._ids)}"

    async def _items(self, order: _Order) -> AsyncGenerator[TextDelta | RequestOutput, None]:
        stream = _Stream(asyncio.get_running_loop(), order)
        if not self._post(lambda: self._add(stream)):
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
                self._post(lambda: self._engine.abort(order.request_id))

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

    def _add(self, stream: _Stream) -> None:
        order = stream.order
        prompt = order.prompt
        text = prompt if isinstance(prompt, str) else None
        try:
            token_ids = self.loaded.encode(prompt) if isinstance(prompt, str) else list(prompt)
            self._engine.add(
                order.request_id,
                token_ids,
                order.params,
                priority=order.priority,
                cache_salt=order.cache_salt,
                pooling=order.pooling,
            )
        except Exception as error:
            stream.put(error)
            return
        self._outputs.register(order.request_id, text, token_ids, order.params)
        self._streams[order.request_id] = stream

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
                stream = self._streams.pop(request_id)
                stream.order.embedding = self._engine.record(request_id).embedding
                stream.put(self._outputs.take(request_id))


@dataclass(slots=True)
class _Order:
    """One request; `embedding` is there when its output is, where it was asked for (`pooling`)."""

    request_id: str
    prompt: str | list[int]
    params: SamplingParams
    priority: int
    cache_salt: bytes
    pooling: Pooling | None = None
    embedding: list[float] | None = None


class _Stream:
    """Carries items from the engine's thread into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, order: _Order) -> None:
        self.order = order
        self._loop = loop
        self.queue: asyncio.Queue[TextDelta | RequestOutput | BaseException] = asyncio.Queue()

    def put(self, item: TextDelta | RequestOutput | BaseException) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits, and the engine goes on for other loops
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
