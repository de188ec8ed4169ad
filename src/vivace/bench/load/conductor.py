"""Who sends what when: open loops, closed loops and chains, on any clock and through any sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from vivace.bench.load.body import with_answer
from vivace.bench.load.clock import Clock
from vivace.bench.records import RequestRecord
from vivace.bench.traffic.request import Traffic, TrafficRequest
from vivace.core.errors import TargetError

LEAD_S = 0.050  # so long before it is due, a request gets its connection and its bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that is over. `is_unreachable`: nobody listened."""

    record: RequestRecord
    text: str = ""
    is_unreachable: bool = False


class Sender(Protocol):
    async def send(self, request: TrafficRequest, due_s: float) -> Exchange:
        """Send it when it is due and read its answer. Never raises for what a server does."""
        ...


class Conductor:
    """Plays one traffic. Every request that is due ends in a record; so does one that can never be sent."""

    def __init__(
        self,
        traffic: Traffic,
        sender: Sender,
        clock: Clock,
        on_record: Callable[[RequestRecord], None],
        *,
        max_concurrency: int | None = None,
        max_unreachable: int = 5,
    ) -> None:
        self._traffic = traffic
        self._sender = sender
        self._clock = clock
        self._on_record = on_record
        self._room = asyncio.Semaphore(max_concurrency or len(traffic.requests) + 1)
        self._lead_s = LEAD_S if max_concurrency is None else 0.0  # who waits for room takes none before it is due
        self._max_unreachable = max_unreachable
        self._num_unreachable = 0  # in a row
        self._is_gone = False
        self._resting: set[asyncio.Task[Any]] = set()
        self._roots = [request for request in traffic.requests if request.after is None]
        self._turns: dict[int, list[TrafficRequest]] = {}
        for request in traffic.requests:
            if request.after is not None:
                self._turns.setdefault(request.after, []).append(request)

    async def play(self) -> None:
        """Until every request has its record. Raises `TargetError` when nobody listens any more: what is in flight
        may end, nothing else is sent."""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._traffic.concurrency is None:
                    tasks.create_task(self._open(tasks))
                else:
                    self._closed(tasks, self._traffic.concurrency)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        if self._is_gone:
            raise TargetError("the server is gone: nobody listens at its address any more")

    async def _open(self, tasks: asyncio.TaskGroup) -> None:
        """Each request at its time, whatever became of those before."""
        for request in sorted(self._roots, key=lambda one: one.arrival_s or 0.0):
            due_s = request.arrival_s or 0.0
            await self._rest(due_s - self._lead_s)
            tasks.create_task(self._chain(request, due_s, tasks))

    async def _chain(self, request: TrafficRequest, due_s: float, tasks: asyncio.TaskGroup) -> None:
        """A request, then all that wait for its answer, side by side."""
        exchange = await self._one(request, due_s)
        for turn, turn_due_s in self._next_turns(request, exchange):
            tasks.create_task(self._chain(turn, turn_due_s, tasks))

    def _closed(self, tasks: asyncio.TaskGroup, num_users: int) -> None:
        """As many users as the traffic says; each goes on with its conversation, then begins another."""
        waiting = deque(self._roots)

        async def user() -> None:
            free_s = 0.0
            while waiting and not self._is_gone:
                root = waiting.popleft()
                begun = deque([(root, free_s + root.think_s)])
                while begun:
                    request, due_s = begun.popleft()
                    exchange = await self._one(request, due_s)
                    begun.extend(self._next_turns(request, exchange))
                    free_s = exchange.record.ended_s

        for _ in range(min(num_users, len(self._roots))):
            tasks.create_task(user())

    async def _one(self, request: TrafficRequest, due_s: float) -> Exchange:
        await self._rest(due_s - self._lead_s)
        async with self._room:
            exchange = await self._sender.send(request, due_s)
        self._on_record(exchange.record)
        self._num_unreachable = self._num_unreachable + 1 if exchange.is_unreachable else 0
        if self._num_unreachable >= self._max_unreachable:
            self._give_up()
        return exchange

    async def _rest(self, moment: float) -> None:
        """Until then, unless the server is gone before."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._resting.add(task)
        try:
            await self._clock.sleep_until(moment)
        finally:
            self._resting.discard(task)

    def _give_up(self) -> None:
        self._is_gone = True
        for task in self._resting:
            task.cancel()

    def _next_turns(self, request: TrafficRequest, exchange: Exchange) -> list[tuple[TrafficRequest, float]]:
        """What follows, with when it is due: also after an answer that its client broke off. After a request without
        an answer, or a server, nobody goes on."""
        turns = self._turns.get(request.index, [])
        if exchange.record.status not in ("ok", "cancelled") or self._is_gone:
            for turn in turns:
                self._drop(turn, exchange.record.ended_s, request)
            return []
        ended_s = exchange.record.ended_s
        return [
            (with_answer(turn, request, exchange.text), max(turn.arrival_s or 0.0, ended_s + turn.think_s))
            for turn in turns
        ]

    def _drop(self, request: TrafficRequest, when_s: float, before: TrafficRequest) -> None:
        """A turn whose conversation ended early, and all that would have come after it."""
        self._on_record(
            RequestRecord(
                index=request.index,
                intended_s=when_s,
                sent_s=when_s,
                ended_s=when_s,
                status="cancelled",
                prompt_len=request.prompt_len,
                output_len=0,
                error=f"not sent: the conversation ended with request {before.index}",
            )
        )
        for turn in self._turns.get(request.index, []):
            self._drop(turn, when_s, request)
