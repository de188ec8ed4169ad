"""How far ahead weights are fetched and how products are cut into panels: measured once a machine, kept on disk.

No result depends on the choice, only speed. What was measured before, for the same processor, threads, build and
layout, costs a look into a small file; where no file can be written, the defaults stand. Neither is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

from vivace.backends.cpu import _native
from vivace.backends.cpu.detect import processor_name
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.cache_directory import cache_directory
from vivace.ops.program import Weight

# Less than this is not worth the time: trials take a second a layout. 96 MiB of it come from memory, not from caches.
MIN_TUNED_BYTES = 256 << 20
TRIAL_BYTES = 96 << 20
TRIAL_ROUNDS = 5
MIN_GAIN = 1.03  # a choice other than the default must pay this much: trials are short and machines shared
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class LinearTuning:
    """As in csrc/linear.h. `NO_ROWS` as `min_fetch_rows` never fetches ahead in a single tile."""

    fetch_distance: int
    min_fetch_rows: int
    weight_panel_bytes: int
    row_panel_bytes: int

    def is_valid(self) -> bool:
        values = [getattr(self, field.name) for field in fields(self)]
        return all(type(value) is int and 1 <= value <= MAX_BYTES for value in values)


NO_ROWS = 1 << 20

# Seconds of a product of so many rows.
Trial = Callable[[LinearTuning, int], float]


class LinearTuner:
    """Tunes the products of one device, each layout once."""

    def __init__(self, device: _native.Device, layouts: Sequence[str]) -> None:
        self._device = device
        self._layouts = layouts
        self._done: set[str] = set()

    def tune(self, weights: Iterable[Weight]) -> None:
        """Choose for every layout that `weights` hold enough of."""
        by_layout: dict[str, dict[int, Weight]] = defaultdict(dict)
        for weight in weights:
            by_layout[weight.layout][id(weight.data)] = weight
        for layout, matrices in by_layout.items():
            if layout in self._done or sum(weight.num_bytes for weight in matrices.values()) < MIN_TUNED_BYTES:
                continue
            self._done.add(layout)
            self._tune(layout, list(matrices.values()))

    def _tune(self, layout: str, matrices: Sequence[Weight]) -> None:
        number = self._layouts.index(layout)
        path = tuning_path(self._device, layout)
        tuning = read_tuning(path)
        if tuning is None:
            if not _is_writable(path.parent):
                return
            usual = LinearTuning(*self._device.linear_tuning(number))
            tuning = choose(_trial(self._device, number, matrices), usual)
            write_tuning(path, tuning)
        _apply(self._device, number, tuning)


def tuning_path(device: _native.Device, layout: str) -> Path:
    """One file for a processor, number of threads, instruction set, build of the native module and layout."""
    build = Path(_native.__file__).stat()
    parts = (processor_name(), device.num_threads, device.isa, build.st_size, build.st_mtime_ns, layout)
    return cache_directory() / "tuning" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def choose(trial: Trial, usual: LinearTuning) -> LinearTuning:
    """One choice after the other, in interleaved trials; the usual one unless another gains `MIN_GAIN`."""
    ahead = replace(usual, min_fetch_rows=1)
    distances = [replace(ahead, fetch_distance=size << 10) for size in (4, 8, 32, 64)]
    tuning = replace(_best(trial, 8, ahead, distances), min_fetch_rows=usual.min_fetch_rows)
    tuning = replace(tuning, min_fetch_rows=_least_rows(trial, tuning))
    panels = [(256, 384), (640, 128), (128, 128)]
    sizes = [replace(tuning, weight_panel_bytes=w << 10, row_panel_bytes=r << 10) for w, r in panels]
    return _best(trial, 64, tuning, sizes)


def read_tuning(path: Path) -> LinearTuning | None:
    """None: not measured yet, or nothing that a measurement of ours could have written."""
    try:
        stored = json.loads(path.read_bytes())
        tuning = LinearTuning(**stored)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return tuning if tuning.is_valid() else None


def write_tuning(path: Path, tuning: LinearTuning) -> None:
    """Whole or not at all, and silently not at all where the folder is not ours to write."""
    try:
        with atomic_writer(path) as file:
            file.write(json.dumps(asdict(tuning)).encode())
    except OSError:
        return


def _least_rows(trial: Trial, tuning: LinearTuning) -> int:
    """The fewest rows from which fetching ahead pays: more than usual while it loses, fewer while it gains."""
    without = replace(tuning, min_fetch_rows=NO_ROWS)
    ahead = replace(tuning, min_fetch_rows=1)
    rows = tuning.min_fetch_rows
    if _best(trial, rows, ahead, [without]) is without:
        return next((more for more in range(rows + 1, 9) if _best(trial, more, ahead, [without]) is ahead), NO_ROWS)
    while rows > 2 and _best(trial, rows - 1, without, [ahead]) is ahead:
        rows -= 1
    return rows


def _best(trial: Trial, rows: int, usual: LinearTuning, others: Sequence[LinearTuning]) -> LinearTuning:
    candidates = [usual, *others]
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(TRIAL_ROUNDS):
        for taken, candidate in zip(seconds, candidates, strict=True):
            taken.append(trial(candidate, rows))
    medians = [statistics.median(taken) for taken in seconds]
    fastest = min(range(len(candidates)), key=medians.__getitem__)
    return candidates[fastest] if medians[fastest] * MIN_GAIN < medians[0] else usual


def _trial(device: _native.Device, layout: int, weights: Sequence[Weight]) -> Trial:
    chosen: list[_native.Matrix] = []
    num_bytes = 0
    for weight in weights:
        if chosen and num_bytes + weight.num_bytes > TRIAL_BYTES:
            continue
        chosen.append(cast(_native.Matrix, weight.data))
        num_bytes += weight.num_bytes

    def measure(tuning: LinearTuning, rows: int) -> float:
        _apply(device, layout, tuning)
        return device.measure_linear(chosen, rows)

    return measure


def _apply(device: _native.Device, layout: int, tuning: LinearTuning) -> None:
    device.tune_linear(
        layout, tuning.fetch_distance, tuning.min_fetch_rows, tuning.weight_panel_bytes, tuning.row_panel_bytes
    )


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
