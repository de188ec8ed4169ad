"""Where calibrations are kept: a file for each machine that was measured, by what it holds for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vivace.core.errors import ConfigError
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.cache_directory import cache_directory
from vivace.plan.machine import Efficiency


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, when (seconds since 1970) and on what."""

    identity: str
    measured_at: float
    read_bytes_per_s: float
    peak_per_s: float
    efficiency: Efficiency
    num_steps: int


def path_of(identity: str) -> Path:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return cache_directory() / "plan" / f"{digest}.json"


def read_calibration(identity: str) -> Calibration | None:
    """None: this machine was not calibrated, or the file is none that we wrote."""
    try:
        calibration = msgspec.json.decode(path_of(identity).read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError):
        return None
    return calibration if calibration.identity == identity and _is_sound(calibration.efficiency) else None


def write_calibration(calibration: Calibration) -> None:
    """Raises `ConfigError` where the cache directory cannot be written."""
    path = path_of(calibration.identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(msgspec.json.encode(calibration))
    except OSError as error:
        reason = f"the calibration cannot be kept in {path.parent} ({error.strerror}); set VIVACE_CACHE"
        raise ConfigError(reason) from error


def _is_sound(efficiency: Efficiency) -> bool:
    """Rates are above 0, as every file of ours has them."""
    by_width = efficiency.rates.values()
    if not all(rates.widths and len(rates.widths) == len(rates.curves) for rates in by_width):
        return False
    curves = [curve for rates in by_width for curve in rates.curves] + list(efficiency.attention_rates.values())
    rates = [rate for curve in curves for rate in curve.operations_per_s]
    shares = [*efficiency.bandwidth.values(), efficiency.kv_bandwidth, efficiency.row_share, efficiency.overlap]
    shares += [share for pair in efficiency.threads.values() for share in pair]
    whole = all(curve.rows and len(curve.rows) == len(curve.operations_per_s) for curve in curves)
    return whole and "" in efficiency.bandwidth and all(value > 0 for value in (*rates, *shares))
