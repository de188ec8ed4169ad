"""What the machine can do at most, as measured in the same minutes as the benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ceilings:
    """`read_gb_per_s`: a plain read of memory in huge pages by all threads. `gop_per_s`: arithmetic peak by type of
    number; a multiplication and an addition are two operations."""

    read_gb_per_s: float
    gop_per_s: dict[str, float]


def median_of(probes: Sequence[Ceilings]) -> Ceilings:
    """The median of each figure."""
    return Ceilings(
        read_gb_per_s=statistics.median(probe.read_gb_per_s for probe in probes),
        gop_per_s={
            name: statistics.median(probe.gop_per_s[name] for probe in probes) for name in probes[0].gop_per_s
        },
    )
