"""Who is next: priorities with aging, and within a priority equal shares of the engine for every key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from vivace.serve.admission.demand import Demand


class Entry(Protocol):
    """What the queue must know of a request."""

    @property
    def key(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def entered(self) -> float: ...
    @property
    def demand(self) -> Demand: ...


E = TypeVar("E", bound=Entry)


@dataclass(slots=True)
class _Flow(Generic[E]):
    """The requests of one key at one priority. `start` is the virtual time, in seconds of the engine, that the key
    has used up: the flow with the least is served next (start-time fair queueing, Goyal, Vin and Cheng 1996)."""

    start: float
    backlog: Demand = field(default_factory=Demand)  # waiting, or expected to
    waiting: OrderedDict[E, None] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Level(Generic[E]):
    """The flows of one priority."""

    virtual_time: float = 0.0
    backlog: Demand = field(default_factory=Demand)
    flows: dict[str, _Flow[E]] = field(default_factory=dict)
    waiting: OrderedDict[E, None] = field(default_factory=OrderedDict)  # oldest first


class FairQueue(Generic[E]):
    """Requests that wait, and those that are expected to (announced, still being tokenised).

    A lower priority value goes first, but every `aging_s` seconds of waiting count as one level. `seconds` is the
    engine's price of a demand. All operations but `next` and `ahead` are O(1); these are O(keys that wait).
    """

    def __init__(self, aging_s: float, seconds: Callable[[Demand], float]) -> None:
        self._aging_s = aging_s
        self._seconds = seconds
        self._levels: dict[int, _Level[E]] = {}
        self.backlog = Demand()

    def announce(self, entry: E) -> None:
        """Count the entry in; it joins with `push`. Its demand must stay as it is until `withdraw` or `pop`."""
        level = self._levels.setdefault(entry.priority, _Level())
        flow = level.flows.get(entry.key)
        if flow is None:
            flow = level.flows[entry.key] = _Flow(level.virtual_time)
        elif not flow.backlog.num_requests:
            flow.start = max(flow.start, level.virtual_time)
        for backlog in (self.backlog, level.backlog, flow.backlog):
            backlog.add(entry.demand)

    def push(self, entry: E) -> None:
        """The announced entry waits from now on, behind those of its key."""
        level = self._levels[entry.priority]
        level.waiting[entry] = None
        level.flows[entry.key].waiting[entry] = None

    def withdraw(self, entry: E) -> None:
        """Take out what was announced, whether it waits already or not."""
        level = self._levels[entry.priority]
        flow = level.flows[entry.key]
        level.waiting.pop(entry, None)
        flow.waiting.pop(entry, None)
        for backlog in (self.backlog, level.backlog, flow.backlog):
            backlog.remove(entry.demand)
        self._forget(entry.priority, level)

    def next(self, now: float) -> E | None:
        """Whose turn it is; the entry stays in the queue."""
        best: _Level[E] | None = None
        best_rank = 0.0
        for priority, level in self._levels.items():
            if level.waiting:
                rank = priority - self._waited(level, now) / self._aging_s
                if best is None or rank < best_rank:
                    best, best_rank = level, rank
        if best is None:
            return None
        flow = min((flow for flow in best.flows.values() if flow.waiting), key=lambda flow: flow.start)
        return next(iter(flow.waiting))

    def pop(self, entry: E) -> None:
        """The entry got its turn: its key pays the expected price."""
        level = self._levels[entry.priority]
        flow = level.flows[entry.key]
        level.virtual_time = max(level.virtual_time, flow.start)
        flow.start += self._seconds(entry.demand)
        self.withdraw(entry)

    def charge(self, entry: E, demand: Demand) -> None:
        """What the entry took beyond its expected demand (or less, negative): its key pays that too."""
        level = self._levels.get(entry.priority)
        flow = level.flows.get(entry.key) if level else None
        if flow is not None:
            flow.start += self._seconds(demand)

    def ahead(self, key: str, priority: int, now: float) -> Demand:
        """All that goes before a request of this key that would come now, if nobody came after it."""
        total = Demand()
        for other, level in self._levels.items():
            if other < priority or (other > priority and other - self._waited(level, now) / self._aging_s < priority):
                total.add(level.backlog)
        own = self._levels.get(priority)
        if own is not None:
            self._add_flows_ahead(total, own, key)
        return total

    def _add_flows_ahead(self, total: Demand, level: _Level[E], key: str) -> None:
        own = level.flows.get(key)
        start = level.virtual_time if own is None else max(own.start, level.virtual_time)
        reached = start + (self._seconds(own.backlog) if own else 0.0)
        for flow in level.flows.values():
            length = self._seconds(flow.backlog)
            if length > 0.0:
                total.add(flow.backlog, min(max((reached - flow.start) / length, 0.0), 1.0))

    def _waited(self, level: _Level[E], now: float) -> float:
        oldest = next(iter(level.waiting), None)
        return 0.0 if oldest is None else now - oldest.entered

    def _forget(self, priority: int, level: _Level[E]) -> None:
        """Drop what carries no information any more. Sums of floats are set to zero exactly where nothing is left."""
        if not round(level.backlog.num_requests):
            del self._levels[priority]
        if not round(self.backlog.num_requests):
            self.backlog = Demand()
