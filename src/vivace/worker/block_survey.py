"""When the engine is asked how its KV blocks stand: while somebody looks, and seldom enough not to be felt."""

from __future__ import annotations

import time
from collections.abc import Callable

from vivace.schedule.block_map import BlockMap

INTERVAL_S = 1.0
PATIENCE_S = 10.0  # for an answer; a step may take so long


class BlockSurvey:
    """The last picture, and whether it is time for the next. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.latest: BlockMap | None = None
        self._clock = clock
        self._asked_at = float("-inf")
        self._is_awaited = False

    def is_due(self) -> bool:
        """Whether to ask now; whoever hears True does."""
        now = self._clock()
        if now - self._asked_at < (PATIENCE_S if self._is_awaited else INTERVAL_S):
            return False
        self._asked_at, self._is_awaited = now, True
        return True

    def take(self, picture: BlockMap) -> None:
        self.latest, self._is_awaited = picture, False

    def forget(self) -> None:
        """The engine is gone, and its blocks with it."""
        self.latest, self._is_awaited = None, False
