"""Service-level objectives: what a request must keep to count as good (goodput; Zhong et al., DistServe, 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from vivace.core.errors import ConfigError
from vivace.core.nearest_name import nearest_name


@dataclass(frozen=True, slots=True)
class SLO:
    """Bounds of one request in milliseconds; None: no bound. `itl` bounds the largest gap between two tokens."""

    ttft: float | None = None
    tpot: float | None = None
    itl: float | None = None
    e2el: float | None = None

    @classmethod
    def parse(cls, entries: Iterable[str]) -> SLO:
        """From `ttft:500` and `tpot:50`, each alone or several with commas or blanks. Raises `ConfigError`."""
        names = [field.name for field in fields(cls)]
        bounds: dict[str, float] = {}
        for entry in " ".join(entries).replace(",", " ").split():
            name, _, value = entry.partition(":")
            if name not in names:
                raise ConfigError(f"unknown objective {name!r}{nearest_name(name, names)} (as in ttft:500, ms)")
            try:
                bounds[name] = float(value)
            except ValueError:
                raise ConfigError(f"an objective is NAME:MILLISECONDS, as in ttft:500, not {entry!r}") from None
            if not (math.isfinite(bounds[name]) and bounds[name] > 0):
                raise ConfigError(f"the bound of {name} must be above 0 milliseconds, not {value!r}")
        return cls(**bounds)

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}:{value:g}" for name, value in values if value is not None)
