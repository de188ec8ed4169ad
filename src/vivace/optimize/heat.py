"""Several runs on one machine in turns of milliseconds, so that what disturbs one disturbs all.

A virtual machine's speed wobbles by some 5% within tenths of a second: two runs one after the other differ by 7%
where nothing differs. Runs that alternate in slices share the wobble, and their ratio does not have it (as in duet
benchmarking; Bulej et al., 2020).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from vivace.core.errors import ConfigError
from vivace.optimize.measurement import Measurement

SLICE_S = 0.01
PULSE_EVERY_S, PULSE_S = 0.1, 0.015  # longer ones, where a step takes longer, are rarer as well

Play = Generator[float, None, Measurement]  # yields the share that is done


@dataclass(frozen=True, slots=True)
class Heat:
    """`results` in the order of the runs: a measurement, or why there is none."""

    results: tuple[Measurement | str, ...]
    pulses: tuple[float, ...]


def run_heat(
    plays: Sequence[Play], pulse: Callable[[float], float], clock: Callable[[], float] = time.monotonic
) -> Heat:
    """Who has done the least goes on, so that all end together. `pulse` takes seconds and gives the baseline's speed
    in them."""
    shares = dict.fromkeys(range(len(plays)), 0.0)
    results: list[Measurement | str] = [""] * len(plays)
    pulses = [pulse(PULSE_S)]
    due = clock() + PULSE_EVERY_S
    while shares:
        index = min(shares, key=lambda one: shares[one])
        until = clock() + SLICE_S
        try:
            while clock() < until:
                shares[index] = next(plays[index])
        except StopIteration as end:
            results[index] = end.value
            del shares[index]
        except ConfigError as error:
            results[index] = str(error)
            del shares[index]
        if (began := clock()) >= due:
            pulses.append(pulse(PULSE_S))
            due = clock() + PULSE_EVERY_S / PULSE_S * (clock() - began)
    pulses.append(pulse(PULSE_S))
    return Heat(tuple(results), tuple(pulses))
