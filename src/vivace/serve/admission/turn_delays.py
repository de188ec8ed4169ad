"""What kept whoever was first in the queue from its turn, as seconds by obstacle."""

from __future__ import annotations

from typing import Literal

Obstacle = Literal["rows", "blocks", "prompts"]  # prompts: enough prompt work lies ready in the engine


class TurnDelays:
    """Adds up the time between two looks at the queue under what the first look found. Costs one addition a look."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = 0.0
        self._obstacle: Obstacle | None = None

    def note(self, now: float, obstacle: Obstacle | None) -> None:
        """From now on this stands in the way; None: nothing does, or nobody waits."""
        if self._obstacle is not None:
            self._seconds[self._obstacle] = self._seconds.get(self._obstacle, 0.0) + now - self._since
        self._since, self._obstacle = now, obstacle

    def totals(self, now: float) -> dict[str, float]:
        """So far, as a value of its own."""
        self.note(now, self._obstacle)
        return self._seconds.copy()

    def since(self, before: dict[str, float], now: float) -> dict[str, float]:
        """What was added to these totals."""
        grown = {name: seconds - before.get(name, 0.0) for name, seconds in self.totals(now).items()}
        return {name: seconds for name, seconds in grown.items() if seconds > 0.0}
