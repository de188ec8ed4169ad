"""An engine in virtual time, and an event loop that jumps to whatever is due next."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vivace.core.errors import DeadlineError, OverloadedError
from vivace.serve.admission import Admission, AdmissionLimits

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time that would pass is added to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everyone waits for someone else"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Sleeps cost nothing; a wait that nothing would end is an AssertionError."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def hold_up(self, seconds: float) -> None:
        """As a callback that computes for so long would."""
        self._jumping.now += seconds


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


@dataclass(slots=True)
class Capacity:
    """What the simulated engine can do. A step takes `step_s` and `row_s` for each token in it."""

    step_s: float = 0.010
    row_s: float = 0.0005
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    max_model_len: int = 4096
    block_size: int = 16
    num_kv_blocks: int = 4096
    weight_bytes: int = 500_000_000


@dataclass(eq=False, slots=True)
class _Job:
    num_prompt: int
    num_wanted: int
    num_computed: int = 0
    num_generated: int = 0
    arrived: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    @property
    def num_tokens(self) -> int:
        return self.num_computed + self.num_generated


@dataclass(slots=True)
class Numbers:
    num_free_blocks: int
    num_cached_blocks: int = 0
    num_computed_tokens: int = 0
    num_generation_tokens: int = 0


class SimulatedEngine:
    """Continuous batching with chunked prompts, first come first served; blocks may overflow, which is noted."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.numbers = Numbers(capacity.num_kv_blocks)
        self.most_blocks = 0
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._has_work = asyncio.Event()

    def state(self) -> Numbers:
        now = self.numbers
        return Numbers(now.num_free_blocks, 0, now.num_computed_tokens, now.num_generation_tokens)

    def submit(self, num_prompt: int, num_wanted: int) -> _Job:
        job = _Job(num_prompt, num_wanted)
        self._waiting.append(job)
        self._has_work.set()
        return job

    def abort(self, job: _Job) -> None:
        for place in (self._waiting, self._running):
            if job in place:
                place.remove(job)

    async def run(self) -> None:
        """Step for ever; cancel it."""
        while True:
            if not (self._waiting or self._running):
                self._has_work.clear()
                await self._has_work.wait()
            rows = self._plan()
            await asyncio.sleep(self.capacity.step_s + self.capacity.row_s * sum(rows.values()))
            self._commit(rows)

    def _plan(self) -> dict[_Job, int]:
        while self._waiting and len(self._running) < self.capacity.max_num_seqs:
            self._running.append(self._waiting.popleft())
        rows = {job: 1 for job in self._running if job.num_computed >= job.num_prompt}
        for job in self._running:
            room = self.capacity.max_num_batched_tokens - sum(rows.values())
            if job.num_computed < job.num_prompt and room > 0:
                rows[job] = min(room, job.num_prompt - job.num_computed)
        return rows

    def _commit(self, rows: dict[_Job, int]) -> None:
        numbers = self.numbers
        for job, num_rows in rows.items():
            if job not in self._running:
                continue
            numbers.num_computed_tokens += num_rows
            if job.num_computed < job.num_prompt:
                job.num_computed += num_rows
            if job.num_computed >= job.num_prompt:
                job.num_generated += 1
                numbers.num_generation_tokens += 1
                job.arrived.put_nowait(1)
                if job.num_generated == job.num_wanted:
                    self._running.remove(job)
        used = sum(-(-job.num_tokens // self.capacity.block_size) for job in self._running)
        self.most_blocks = max(self.most_blocks, used)
        numbers.num_free_blocks = max(self.capacity.num_kv_blocks - used, 0)


@dataclass(slots=True)
class Request:
    """One request and what became of it."""

    key: str = "anonymous"
    num_prompt: int = 100
    num_output: int = 32
    max_tokens: int | None = 32
    priority: int = 0
    timeout_s: float | None = None
    bytes_per_token: float = 4.0
    arrival: float = 0.0
    wait_s: float | None = None
    predicted_s: float | None = None
    first_token_s: float | None = None
    finished: float | None = None
    refused_after_s: float | None = None
    retry_after_s: float | None = None
    is_late: bool = False


class Server:
    """Admission before a simulated engine."""

    def __init__(self, capacity: Capacity, **bounds: Any) -> None:
        loop = asyncio.get_running_loop()
        self.engine = SimulatedEngine(capacity)
        self.admission = Admission(AdmissionLimits(capacity, **bounds), loop.time, self.engine.state)
        self.time = loop.time
        self._stepping = loop.create_task(self.engine.run())

    async def serve(self, request: Request) -> Request:
        request.arrival = self.time()
        try:
            await self._serve(request)
        except OverloadedError as error:
            request.refused_after_s = self.time() - request.arrival
            request.retry_after_s = error.retry_after_s
        except DeadlineError:
            request.is_late = True
        return request

    async def _serve(self, request: Request) -> None:
        num_bytes = round(request.num_prompt * request.bytes_per_token)
        enter = self.admission.enter
        with enter(
            key=request.key, num_bytes=num_bytes, max_tokens=request.max_tokens, priority=request.priority
        ) as t:
            room = self.engine.capacity.max_model_len - request.num_prompt
            t.measured(request.num_prompt, room if request.max_tokens is None else request.max_tokens)
            await t.turn(None if request.timeout_s is None else request.arrival + request.timeout_s)
            request.wait_s, request.predicted_s = self.time() - request.arrival, t.predicted_wait_s
            job = self.engine.submit(request.num_prompt, request.num_output)
            try:
                for number in range(request.num_output):
                    await job.arrived.get()
                    if number == 0:
                        request.first_token_s = self.time() - request.arrival
                        t.first_token(0)
                    t.tokens(1)
            finally:
                self.engine.abort(job)
            request.finished = self.time()

    def stop(self) -> None:
        self._stepping.cancel()
