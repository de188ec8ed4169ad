"""Numbers as people read them: three digits that matter, a thousand in groups."""

from __future__ import annotations

import math

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_STEPS_IN = ((1e11, 1e12, "T"), (1e8, 1e9, "G"), (1e5, 1e6, "M"), (5e3, 1e3, "k"))  # an axis keeps one of them


def compact(value: float) -> str:
    """`0.0123`, `4.57`, `123`, `12,300`, `1.23M`; a dash for what is not a number."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    for factor, letter in _LARGE:
        if size >= factor * 0.9995:
            return _digits(value / factor) + letter
    return f"{value:,.0f}" if size >= 999.5 else _digits(value)


def percent(share: float) -> str:
    return "–" if not math.isfinite(share) else f"{_digits(100 * share)}%"


def tick_label(value: float, step: float) -> str:
    """A label with as many decimals as tell neighbours apart that are `step` away."""
    for least, factor, letter in _STEPS_IN:
        if step >= least:
            return _decimals(value / factor, step / factor) + (letter if value else "")
    return _decimals(value, step)


def _decimals(value: float, step: float) -> str:
    if step <= 0:
        return f"{value:,.0f}"
    power = math.floor(math.log10(step) + 1e-9)
    whole = math.isclose(step / 10.0**power, round(step / 10.0**power))  # a step of 2.5 needs a place more
    return f"{value:,.{min(max(0, (0 if whole else 1) - power), 9)}f}"


def _digits(value: float) -> str:
    """Three significant digits without an exponent or trailing zeros after the point."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    if places > 7:
        return f"{value:.2e}"
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
