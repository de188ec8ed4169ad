"""Prometheus' text format, as far as totals need it: each metric's samples summed over their labels."""

from __future__ import annotations

import math


def totals(text: str) -> dict[str, float]:
    """Name (with `_total`, `_sum` …) to the sum over all label sets. Lines that are none are passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        name, _, rest = line.partition("{")
        if rest:
            rest = rest.rpartition("}")[2]
        else:
            name, _, rest = line.partition(" ")
        try:
            value = float(rest.split()[0])
        except (IndexError, ValueError):
            continue
        if math.isfinite(value) and not name.endswith("_bucket"):
            found[name] = found.get(name, 0.0) + value
    return found
