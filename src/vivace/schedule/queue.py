"""Who waits: sequences by priority, then arrival."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count

from vivace.core.sequence import Sequence

_Item = tuple[int, int, int, int, Sequence]


class WaitingQueue:
    """Sequences ordered by (priority, arrival, index): lower priority values first, FIFO within a priority.

    A binary heap. Removed sequences stay in it until they come up or outnumber the others.
    """

    def __init__(self) -> None:
        self._heap: list[_Item] = []
        self._tickets: dict[Sequence, int] = {}
        self._next_ticket = count()

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._tickets

    def push(self, sequence: Sequence) -> None:
        ticket = next(self._next_ticket)
        self._tickets[sequence] = ticket
        heappush(self._heap, (sequence.priority, sequence.arrival, sequence.index, ticket, sequence))

    def peek(self) -> Sequence | None:
        """The first sequence, which stays in the queue; None where it is empty."""
        while self._heap:
            item = self._heap[0]
            if self._is_current(item):
                return item[-1]
            heappop(self._heap)
        return None

    def pop(self) -> Sequence:
        sequence = self.peek()
        if sequence is None:
            raise IndexError("the waiting queue is empty")
        heappop(self._heap)
        del self._tickets[sequence]
        return sequence

    def remove(self, sequence: Sequence) -> bool:
        """Take the sequence out, wherever it stands. Returns whether it was there."""
        if self._tickets.pop(sequence, None) is None:
            return False
        if len(self._heap) > 2 * len(self._tickets) + 16:
            self._heap = [item for item in self._heap if self._is_current(item)]
            heapify(self._heap)
        return True

    def _is_current(self, item: _Item) -> bool:
        return self._tickets.get(item[-1]) == item[-2]
