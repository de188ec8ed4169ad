"""Axes: from values to places, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vivace.charts.numbers import compact, percent, tick_label

_STEPS = (1, 2, 2.5, 5, 10)
_LEAST_RANGE = 1e-9  # of the values: what is nearer together is one value
_MORE_TICKS = 0.72  # a step may be so much below what was asked: better a tick more than half a chart empty
_DECADE_PARTS = {1: (1,), 2: (1, 3), 3: (1, 2, 5), 4: (1, 1.5, 2, 3, 5, 7)}


@dataclass(frozen=True, slots=True)
class Axis:
    """What is measured. `share`: values from 0 to 1, shown in percent. `low` and `high`: ends that are not the
    data's; without them a linear axis begins at 0 if the data does not go below (`from_zero`)."""

    label: str
    unit: str = ""
    log: bool = False
    share: bool = False
    low: float | None = None
    high: float | None = None
    from_zero: bool = True

    @property
    def words(self) -> str:
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def value(self, value: float) -> str:
        """A value with its unit."""
        if self.share:
            return percent(value)
        return f"{compact(value)} {self.unit}" if self.unit else compact(value)

    def scale(self, values: Iterable[float], start: float, end: float, *, num_ticks: int = 5) -> Scale:
        """From the data's range, widened to round numbers, to the places between `start` and `end`."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not self.log)]
        low = self.low if self.low is not None else min(known, default=0.1 if self.log else 0.0)
        high = self.high if self.high is not None else max(known, default=1.0)
        if self.log:
            return _log_scale(self, max(low, 1e-12), high, start, end, num_ticks)
        if self.from_zero and self.low is None:
            low = min(low, 0.0)
        return _linear_scale(self, low, high, start, end, num_ticks)


@dataclass(frozen=True, slots=True)
class Scale:
    axis: Axis
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """The place of a value; ends of the axis for what is beyond them."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.axis.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def value_at(self, place: float) -> float:
        """The value at a place: the inverse of `at`."""
        part = (place - self.start) / (self.end - self.start)
        if self.axis.log:
            return math.exp(math.log(self.low) + part * (math.log(self.high) - math.log(self.low)))
        return self.low + part * (self.high - self.low)


def _linear_scale(axis: Axis, low: float, high: float, start: float, end: float, num_ticks: int) -> Scale:
    if high - low <= _LEAST_RANGE * max(abs(low), abs(high), 1e-100):
        high = low + (abs(low) if abs(low) > 1e-100 else 1.0)
    step = _round_step((high - low) / max(num_ticks - 1, 1))
    low = low if axis.low is not None else math.floor(low / step + 1e-9) * step
    high = high if axis.high is not None else math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [number * step for number in range(first, last + 1)]
    if axis.share:
        ticks = tuple((value, f"{tick_label(100 * value, 100 * step)}%") for value in values)
    else:
        ticks = tuple((value, tick_label(value, step)) for value in values)
    return Scale(axis, low, high, start, end, ticks)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(part * power for part in _STEPS if part * power >= rough * _MORE_TICKS)


def _log_scale(axis: Axis, low: float, high: float, start: float, end: float, num_ticks: int) -> Scale:
    """Ends at 1, 2 or 5 times a power of ten around the data; labels at as many of those as there is room for."""
    candidates = _decade_values(low / 10, high * 10, (1, 2, 5))
    low = low if axis.low is not None else max(value for value in candidates if value <= low * (1 + 1e-9))
    high = high if axis.high is not None else min(value for value in candidates if value >= high * (1 - 1e-9))
    if high < 1.5 * low:
        high = 2 * low
    decades = math.log10(high / low)
    per_decade = max(1, min(4, round(num_ticks / max(decades, 0.3))))
    shown = _decade_values(low, high, _DECADE_PARTS[per_decade])
    if decades > 1.5 * num_ticks:
        shown = shown[:: math.ceil(decades / num_ticks)]
    if len(shown) < 2:
        shown = [low, high]
    return Scale(
        axis,
        low,
        high,
        start,
        end,
        tuple((value, percent(value) if axis.share else compact(value)) for value in shown),
    )


def _decade_values(low: float, high: float, parts: tuple[float, ...]) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = (part * 10.0**power for power in range(first, last + 1) for part in parts)
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
