"""How far predictions are from steps that were measured: on models that no calibration saw."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.engine_step import engine_overhead
from vivace.bench.profile_step import Phase, ProfileProgram, profile_program, step_inputs
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.plan.calibration_file import Calibration, write_calibration
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine
from vivace.plan.measurement import Clock, touch_other_memory
from vivace.plan.step_time import step_model
from vivace.plan.this_machine import calibrate, calibrated_machine, read_rate

EMBEDDED = "embedded"
MODELS = ((EMBEDDED, "int8"), (EMBEDDED, "bf16"), ("qwen2.5-0.5b", "int4"), ("qwen2.5-0.5b", "int8"))
PHASES = (
    *(Phase("decode", streams, 1, depth) for streams, depth in ((1, 500), (3, 1_200), (8, 250), (16, 900))),
    *(Phase("prefill", 1, tokens, depth) for tokens, depth in ((160, 0), (256, 512))),
)
DECODE_REPEATS, PREFILL_REPEATS = 7, 3
SHALLOW = 32  # tokens of context behind which the engine's own work is measured
MAX_MODEL_LEN = 2_048  # of the embedded model
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Seconds of one step: measured (the median, with the engine's own work), and predicted with the read rate of its
    moment and with that of the machine as it was given."""

    model: str
    quantization: str
    phase: str
    streams: int
    tokens: int
    depth: int
    measured_s: float
    least_s: float
    predicted_s: float
    predicted_before_s: float
    read_bytes_per_s: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted_s / self.measured_s - 1

    @property
    def error_before(self) -> float:
        return self.predicted_before_s / self.measured_s - 1


def confirm(
    backend: CpuBackend,
    machine: Machine,
    clock: Clock,
    *,
    models: Sequence[tuple[str, str]] = MODELS,
    phases: Sequence[Phase] = PHASES,
) -> Iterator[Confirmation]:
    """Steps of `models` (a preset's name or "embedded", with a quantization) beside what `machine` predicts. The
    defaults take some 10 s on two cores."""
    engines: dict[tuple[str, int], float] = {}
    for model, quantization in models:
        loaded = _load(backend, model, quantization)
        program = profile_program(loaded, list(phases))
        for phase in phases:
            yield _confirmed(backend, machine, clock, loaded, program, (model, quantization), phase, engines)


def calibrate_confirmed(
    backend: CpuBackend | None = None, *, clock: Clock = time.perf_counter, progress: Progress | None = None
) -> Calibration:
    """Calibrate this machine, hold the result against other models' steps, and keep both."""
    backend = backend or CpuBackend()
    calibration = calibrate(backend, clock=clock, progress=progress)
    words = error_words(list(confirm(backend, calibrated_machine(backend, calibration), clock)))
    checked = replace(calibration, efficiency=replace(calibration.efficiency, checked=words))
    write_calibration(checked)
    return checked


def median_error(confirmations: Sequence[Confirmation]) -> float:
    return statistics.median(abs(one.error) for one in confirmations)


def error_words(confirmations: Sequence[Confirmation]) -> str:
    """In one line."""
    ordered = sorted(abs(one.error) for one in confirmations)
    most = ordered[int(0.9 * (len(ordered) - 1))]
    return (
        f"held against {len(ordered)} steps of other models measured right after, predictions were off by "
        f"{100 * median_error(confirmations):.0f}% in the median and by {100 * most:.0f}% or less in nine of ten"
    )


def _confirmed(
    backend: CpuBackend,
    machine: Machine,
    clock: Clock,
    loaded: LoadedEngine,
    program: ProfileProgram,
    name: tuple[str, str],
    phase: Phase,
    engines: dict[tuple[str, int], float],
) -> Confirmation:
    model, quantization = name
    inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
    program.executable.run(inputs)
    reads, seconds = [read_rate(backend)], []
    for _ in range(DECODE_REPEATS if phase.num_new == 1 else PREFILL_REPEATS):
        touch_other_memory()
        started = clock()
        program.executable.run(inputs)
        seconds.append(clock() - started)
    reads.append(read_rate(backend))
    read = statistics.mean(reads)
    engine_s = _engine_seconds(loaded, model, phase.num_streams, clock, engines)
    return Confirmation(
        model,
        quantization,
        phase.name,
        phase.num_streams,
        phase.num_new,
        phase.depth,
        statistics.median(seconds) + engine_s,
        min(seconds) + engine_s,
        _predicted(loaded, replace(machine, read_bytes_per_s=read), quantization, phase),
        _predicted(loaded, machine, quantization, phase),
        read,
    )


def _predicted(loaded: LoadedEngine, machine: Machine, quantization: str, phase: Phase) -> float:
    model = step_model(loaded.spec, machine, Deployment(quantization=quantization))
    if phase.num_new == 1:
        return model.seconds(phase.num_streams, phase.depth)
    return model.seconds(0, 0, 1, phase.num_new, phase.depth)


def _engine_seconds(
    loaded: LoadedEngine, model: str, num_streams: int, clock: Clock, known: dict[tuple[str, int], float]
) -> float:
    """The engine's own work depends on the streams and the vocabulary alone: measured once for each."""
    key = model, num_streams
    if key not in known:
        phase = Phase("engine", num_streams, 1, SHALLOW)
        known[key] = engine_overhead(loaded, profile_program(loaded, [phase]), phase, clock).total_s
    return known[key]


def _load(backend: CpuBackend, model: str, quantization: str) -> LoadedEngine:
    kind = {} if model == EMBEDDED else {"load_format": "dummy", "config": model}
    options = {"quantization": quantization, "num_threads": backend.num_threads, "max_model_len": MAX_MODEL_LEN}
    return load_engine(EngineConfig.from_options({**kind, **options, "max_num_seqs": 16, "num_kv_blocks": 2_100}))
