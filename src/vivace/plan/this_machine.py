"""The machine we run on: ceilings measured now, efficiencies from a calibration that was kept, or assumed."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from vivace import __version__
from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import Machine as DetectedMachine
from vivace.backends.cpu.detect import detect, measure
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.memory import available_memory_bytes
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.cache_directory import cache_directory
from vivace.plan.calibration import fit
from vivace.plan.machine import Efficiency, Machine
from vivace.plan.measurement import (
    READ_BYTES,
    READ_REPETITIONS,
    RequestCosts,
    StepSample,
    clock_rate,
    measure_requests,
    measure_steps,
    measure_threads,
)
from vivace.plan.this_gpu import gpu_machine

READ_PROBES = 3
READ_SECONDS = 0.7
CLOCK_PROBES = 40  # some 50 ms
CLOCK_NOISE = 0.03  # smaller differences of the clock are the yardstick's own
# Of our kernels on machines where they were measured (BENCHMARKS.md): the middle, for one that was not calibrated.
UNCALIBRATED = Efficiency(
    basis="assumed shares of the ceilings that were measured just now; `--calibrate` measures them",
    bandwidth={"": 0.9},
    kv_bandwidth=0.7,
    arithmetic=0.62,
    attention_arithmetic=0.4,
    row_share=1.0,
    step_s=60e-6,
    op_s=0.4e-6,
    product_op_s=1.5e-6,
    sequence_s=2e-6,
    logit_s=1.5e-10,
    attention_keys=48,
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, when (seconds since 1970) and on what."""

    identity: str
    measured_at: float
    read_bytes_per_s: float
    peak_per_s: float
    efficiency: Efficiency
    num_steps: int


def this_machine(backend: CpuBackend | None = None, *, use_calibration: bool = True) -> Machine:
    """Ceilings are measured, which takes a second and a half. Without a backend it is the machine's GPU, where there
    is one."""
    gpu = gpu_machine(EngineConfig()) if backend is None else None
    if gpu is not None:
        return gpu
    backend = backend or CpuBackend()
    calibration = load_calibration(backend) if use_calibration else None
    if calibration is None:
        return _machine(backend, UNCALIBRATED)
    # Twice, with a second in between: threads that have just begun may share a core for the length of a probe.
    early = clock_rate(backend, CLOCK_PROBES)
    machine = _machine(backend, calibration.efficiency)
    ratio = max(early, clock_rate(backend, CLOCK_PROBES)) / calibration.peak_per_s
    moved = abs(ratio - 1) > CLOCK_NOISE
    return replace(machine, efficiency=calibration.efficiency.at_clock(ratio)) if moved else machine


def calibrated_machine(backend: CpuBackend, calibration: Calibration) -> Machine:
    """With the read rate of the calibration's minutes."""
    return _machine(backend, calibration.efficiency, calibration.read_bytes_per_s)


def calibrate(
    backend: CpuBackend | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure steps of small models, about a minute, and keep what follows from them."""
    backend = backend or CpuBackend()
    samples = measure_steps(backend, clock, progress=progress)
    threads, requests = measure_threads(backend, clock), measure_requests(backend, clock)
    calibration = calibration_of(backend, samples, time.time(), threads, requests)
    save_calibration(backend, calibration)
    return calibration


def calibration_of(
    backend: CpuBackend,
    samples: list[StepSample],
    measured_at: float,
    threads: Mapping[int, tuple[float, float]] | None = None,
    requests: RequestCosts | None = None,
) -> Calibration:
    """Fitted to `samples`; `threads` as `measure_threads` gives them, `requests` as `measure_requests`."""
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(measured_at))
    reads = sorted(one.read_bytes_per_s for one in samples if not one.is_cached)
    low, high = (reads[int(share * (len(reads) - 1))] / 1e9 for share in (0.1, 0.9))
    steps = f"measured here on {day}: {len(samples)} shapes of step"
    basis = f"{steps}, while memory was read at {low:.0f} to {high:.0f} GB/s"
    read, peak = statistics.median(reads), _clock(samples)
    fitted = replace(fit(samples, basis, _last_level_bytes(detect())), threads=dict(threads or {}))
    if requests is not None:
        fitted = replace(
            fitted,
            admission_s=requests.request_s,
            admission_token_s=requests.token_s,
            wake_s=requests.wake_s,
        )
    return Calibration(identity(backend), measured_at, read, peak, fitted, len(samples))


def _clock(samples: Sequence[StepSample]) -> float:
    """The undisturbed rate: that of the fastest tenth."""
    peaks = sorted(one.peak_per_s for one in samples)
    return peaks[int(0.9 * (len(peaks) - 1))]


def read_rate(backend: CpuBackend) -> float:
    """Bytes a second of a plain read of memory by all threads, now: the median of a few."""
    device = backend.device
    return statistics.median(device.measure_read_bandwidth(READ_BYTES, READ_REPETITIONS) for _ in range(READ_PROBES))


def read_rate_over(backend: CpuBackend, seconds: float = READ_SECONDS) -> float:
    """The same over a while: the memory of a machine that others use is read at two rates and more, which change
    within less than a second. Bytes over time, so that slow moments weigh what they cost."""
    rates: list[float] = []
    began = time.perf_counter()
    while not rates or time.perf_counter() - began < seconds:
        rates.append(backend.device.measure_read_bandwidth(READ_BYTES, READ_REPETITIONS))
    return statistics.harmonic_mean(rates)


def identity(backend: CpuBackend) -> str:
    """Of what a calibration holds for: processor, threads, instruction set and version."""
    machine = detect()
    caches = ",".join(f"{one.level}:{one.num_bytes}" for one in machine.caches)
    return "|".join((machine.processor, str(backend.num_threads), backend.isa, caches, __version__))


def calibration_path(backend: CpuBackend) -> Path:
    digest = hashlib.sha256(identity(backend).encode()).hexdigest()[:32]
    return cache_directory() / "plan" / f"{digest}.json"


def load_calibration(backend: CpuBackend) -> Calibration | None:
    """None: this machine was not calibrated, or the file is none that we wrote."""
    try:
        calibration = msgspec.json.decode(calibration_path(backend).read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError):
        return None
    return calibration if calibration.identity == identity(backend) and _is_sound(calibration.efficiency) else None


def save_calibration(backend: CpuBackend, calibration: Calibration) -> None:
    """Raises `ConfigError` where the cache directory cannot be written."""
    path = calibration_path(backend)
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


def _machine(
    backend: CpuBackend,
    efficiency: Efficiency,
    read_bytes_per_s: float | None = None,
) -> Machine:
    detected = detect()
    ceilings = measure(backend.device)
    peaks = {
        "f32": ceilings.f32_operations_per_s,
        "bf16": ceilings.bf16_operations_per_s,
        "int8": ceilings.int8_operations_per_s,
    }
    return Machine(
        name="this",
        title=f"{detected.processor or 'this machine'}, {backend.num_threads} threads",
        kind="cpu",
        memory_bytes=available_memory_bytes(),
        read_bytes_per_s=read_bytes_per_s or read_rate_over(backend),
        operations_per_s={name: peak for name, peak in peaks.items() if peak},
        source="measured here, now",
        efficiency=efficiency,
        cache_bytes=_last_level_bytes(detected),
        num_cores=backend.num_threads,
    )


def _last_level_bytes(detected: DetectedMachine) -> int:
    return max((one.num_bytes for one in detected.caches), default=0)
