"""Section (a): what the device reaches at what it does best, and what a launch costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.setting import Item, Setting
from vivace.backends.cuda.ceilings import (
    MEMORY_BYTES,
    PRODUCT_SIZE,
    UNITS,
    copy_rate,
    launch_overhead_s,
    product_rate,
    read_rate,
)


def ceiling_items(setting: Setting) -> Iterator[Item]:
    device = setting.torch_device
    num_bytes, size = (1 << 20, 64) if setting.is_tiny else (MEMORY_BYTES, PRODUCT_SIZE)
    for name, rate in (("copy", copy_rate), ("read", read_rate)):
        yield Item(name, partial(repeated, partial(rate, device, num_bytes, setting.rounds), "bytes/s"))
    for unit in UNITS:
        measure = partial(repeated, partial(product_rate, device, unit, size, setting.rounds), "operations/s")
        yield Item(f"peak {unit}", measure)
    yield Item("launch", partial(repeated, partial(launch_overhead_s, device), "s"))


def repeated(measure: Callable[[], float | None], unit: str) -> dict[str, Any]:
    """The best of three medians, and all of them: a ceiling is not what a busy moment leaves of it."""
    values = [measure() for _ in range(3)]
    numbers = [value for value in values if value is not None]
    if not numbers:
        return {"error": None, "value": None, "unit": unit, "reason": "this device or this torch has no such product"}
    best = min(numbers) if unit == "s" else max(numbers)
    return {"error": None, "value": best, "unit": unit, "all": numbers}
