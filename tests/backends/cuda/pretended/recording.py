"""CUDA graphs: what a capture records, and what a replay does with it.

While a stream captures nothing is executed. Shapes come from executing on the CPU; afterwards everything that was
there before is as it was, and what is new holds garbage until a replay fills it. A replay makes the very same calls on
the same memory: what the host decided is frozen. Values of all graphs of a pool may lie in the same memory, so a
replay begins with garbage in all of it. Memory from outside must still be somebody's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pretended.machine import Allocation, FaultError, Machine, Stream, spoil
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Call = Callable[[], None]


@dataclass(eq=False)
class Pool:
    """Memory that graphs share."""

    values: list[Tensor] = field(default_factory=list)


class Recording:
    """Of one capture, on `stream`."""

    def __init__(self, machine: Machine, stream: Stream, pool: Pool) -> None:
        self._machine = machine
        self._stream = stream
        self._pool = pool
        self._own: set[int] = set()
        self._kept: list[Allocation] = []  # so that their ids stay theirs
        self._outside: dict[int, weakref.ref[Allocation]] = {}
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._calls: list[Call] = []

    def check(self, stream: Stream) -> None:
        if stream is not self._stream:
            raise RuntimeError("CUDA error: a launch beside the stream that is capturing")

    def own(self, allocation: Allocation) -> None:
        self._own.add(id(allocation))
        self._kept.append(allocation)

    def look(self, tensors: list[Any]) -> None:
        """Memory that the graph will read or write."""
        for one in tensors:
            if id(one.allocation) not in self._own:
                self._outside[id(one.allocation)] = weakref.ref(one.allocation)

    def keep(self, tensors: list[Any]) -> None:
        """What lies in memory that is about to be written."""
        for one in tensors:
            if id(one.allocation) in self._own or not one.numel():
                continue
            storage = one.inner.untyped_storage()
            if storage.data_ptr() not in self._saved:
                whole = one.inner.new_empty(0).set_(storage, 0, (storage.nbytes() // one.inner.itemsize,))
                self._saved[storage.data_ptr()] = whole, whole.clone()

    def add(self, func: Any, args: Any, kwargs: Any, result: Any, mine: list[Any], is_new: bool) -> None:
        """An operation of torch; `is_new`: its result lies in new memory."""
        self.look(mine)
        if not is_new:
            self._calls.append(lambda: func(*args, **kwargs))
            return
        results = [result] if isinstance(result, Tensor) else [one for one in result if isinstance(one, Tensor)]
        there = {one.inner.untyped_storage().data_ptr() for one in mine}
        self._pool.values.extend(one for one in results if one.untyped_storage().data_ptr() not in there)

        def again() -> None:
            made = func(*args, **kwargs)
            for old, new in zip(results, [made] if isinstance(made, Tensor) else made, strict=True):
                old.copy_(new)

        self._calls.append(again)

    def launch(self, call: Call, pointers: list[Any]) -> None:
        """A kernel of Triton's, which may write all that it was given."""
        self.look(pointers)
        self._calls.append(call)

    def finish(self) -> Replay:
        for whole, before in self._saved.values():
            whole.copy_(before)
        for value in self._pool.values:
            spoil(value)
        return Replay(self._machine, self._stream.device, self._pool, self._calls, list(self._outside.values()))


@dataclass(eq=False)
class Replay:
    machine: Machine
    device: int
    pool: Pool
    calls: list[Call]
    outside: list[weakref.ref[Allocation]]

    def run(self) -> None:
        outside = [one() for one in self.outside]
        if any(one is None for one in outside):
            raise FaultError("a graph reads or writes memory that was given back since it was captured")
        there = [one for one in outside if one is not None]
        with _disable_current_modes():
            for value in self.pool.values:
                spoil(value)
            for call in self.calls:
                call()
        self.machine.num_replays += 1
        self.machine.access(self.machine.stream_of(self.device), there, there)
