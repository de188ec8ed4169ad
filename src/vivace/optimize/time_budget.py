"""How long a search may take, and what part of that each stage may reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vivace.core.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(slots=True)
class TimeBudget:
    """`seconds` from `started` on the clock. What an interrupted run has spent on results that are recalled counts as
    well, so that the run that goes on decides as one that was never interrupted."""

    seconds: float
    clock: Callable[[], float]
    started: float
    earlier_s: float = 0.0

    def allows(self, cost_s: float, until: float = 1.0) -> bool:
        """Whether something that takes `cost_s` ends within the share `until` of the budget."""
        return self.elapsed_s + cost_s <= until * self.seconds

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.started + self.earlier_s


def parse_seconds(text: str) -> float:
    """`10m`, `90s`, `1.5h`; a bare number is seconds. Raises `ConfigError`."""
    stripped = text.strip()
    unit = UNITS.get(stripped[-1:].lower())
    try:
        seconds = float(stripped if unit is None else stripped[:-1]) * (unit or 1.0)
    except ValueError:
        raise ConfigError(f"a time budget is 90s, 10m or 1h, not {text!r}") from None
    if not 1.0 <= seconds < float("inf"):
        raise ConfigError(f"a time budget must be a second at least, not {text!r}")
    return seconds
