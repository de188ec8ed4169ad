"""Section (a): what the device reaches at what it does best, and what a launch costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

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
from vivace.plan.hardware import GB, GPUS, TERA, Sheet

# Words in the device's name, and its row of `vivace.plan.hardware`; the first that fits.
SHEETS = (
    (("H200",), "h200"),
    (("H100", "PCIe"), "h100-pcie"),
    (("H100",), "h100"),
    (("A100", "80GB"), "a100-80"),
    (("A100",), "a100-40"),
    (("RTX 4090",), "rtx4090"),
)
# Of the data sheet. Seen on H100: copies 0.90, products of bfloat16 0.81. More than 1 is a clock that did not wait,
# far less a device that somebody else uses too.
MEMORY_SHARES, PRODUCT_SHARES = (0.6, 1.02), (0.3, 1.02)


def ceiling_items(setting: Setting) -> Iterator[Item]:
    device = setting.torch_device
    sheet = sheet_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    num_bytes, size = (1 << 20, 64) if setting.is_tiny else (MEMORY_BYTES, PRODUCT_SIZE)
    for name, rate in (("copy", copy_rate), ("read", read_rate)):
        run = partial(repeated, partial(rate, device, num_bytes, setting.rounds), "bytes/s")
        yield Item(name, partial(held_to, run, None if sheet is None else sheet.gb_per_s * GB, MEMORY_SHARES))
    for unit in UNITS:
        run = partial(repeated, partial(product_rate, device, unit, size, setting.rounds), "operations/s")
        peak = None if sheet is None or unit not in sheet.peaks else sheet.peaks[unit] * TERA
        yield Item(f"peak {unit}", partial(held_to, run, peak, PRODUCT_SHARES))
    yield Item("launch", partial(repeated, partial(launch_overhead_s, device), "s"))


def sheet_of(name: str) -> Sheet | None:
    """The data sheet of a device of this name, where it is known."""
    return next((GPUS[key] for words, key in SHEETS if all(word in name for word in words)), None)


def held_to(run: Callable[[], dict[str, Any]], peak: float | None, shares: tuple[float, float]) -> dict[str, Any]:
    """With its share of the data sheet, wrong where that is not between `shares`."""
    found = run()
    if peak is None or found["value"] is None:
        return found
    share = found["value"] / peak
    return found | {"of_data_sheet": share, "wanted": shares, "is_right": shares[0] <= share <= shares[1]}


def repeated(measure: Callable[[], float | None], unit: str) -> dict[str, Any]:
    """The best of three medians, and all of them: a ceiling is not what a busy moment leaves of it."""
    values = [measure() for _ in range(3)]
    numbers = [value for value in values if value is not None]
    if not numbers:
        return {"error": None, "value": None, "unit": unit, "reason": "this device or this torch has no such product"}
    best = min(numbers) if unit == "s" else max(numbers)
    return {"error": None, "value": best, "unit": unit, "all": numbers}
