"""How far predictions are from steps that were not used in the calibration.

    python benches/plan_error.py --calibrate          # some tens of seconds; once a machine
    python benches/plan_error.py --models embedded qwen2.5-0.5b llama-3.2-1b

Each step is measured with the engine's own work added; the read rate is measured just before and after it, and the
prediction is made twice: with that rate, and with the calibration's. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.engine_step import engine_overhead
from vivace.bench.profile_step import Phase, profile_program, step_inputs
from vivace.core.config import EngineConfig
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine
from vivace.plan.step_time import step_model
from vivace.plan.this_machine import calibrate, calibrated_machine, load_calibration, read_rate

MODELS = ("embedded", "qwen2.5-0.5b", "llama-3.2-1b")
QUANTIZATIONS = ("int4", "int8", "bf16")
PHASES = (
    *(Phase("decode", streams, 1, depth) for streams in (1, 4, 16) for depth in (128, 2_000)),
    *(Phase("prefill", 1, tokens, 0) for tokens in (128, 512)),
)
DECODE_REPEATS, PREFILL_REPEATS = 9, 3
SHALLOW = 32  # tokens of context behind which the engine's own work is measured
MAX_MODEL_LEN = 2_048  # of the embedded model


@dataclass(frozen=True)
class Comparison:
    """Seconds of one step: measured, and predicted with the read rate of its minute and of the calibration."""

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
        return self.predicted_s / self.measured_s - 1

    @property
    def error_before(self) -> float:
        return self.predicted_before_s / self.measured_s - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", action="store_true", help="measure this machine first, and keep the result")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--quantizations", nargs="*", default=QUANTIZATIONS)
    parser.add_argument("--output", type=Path, help="append the comparisons to a file, one JSON object a line")
    options = parser.parse_args()
    backend = CpuBackend()
    if options.calibrate:
        calibrate(backend)
        return
    calibration = load_calibration(backend)
    if calibration is None:
        sys.exit("this machine is not calibrated: run with --calibrate first")
    then = calibrated_machine(backend, calibration)
    engines: dict[tuple[str, int], float] = {}
    comparisons = [
        one
        for model in options.models
        for quantization in options.quantizations
        for one in compare(backend, then, model, quantization, engines)
    ]
    for one in comparisons:
        print(_line(one), flush=True)
    print(summary(comparisons))
    if options.output is not None:
        with options.output.open("a") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in comparisons)


def compare(
    backend: CpuBackend, machine: Machine, model: str, quantization: str, engines: dict[tuple[str, int], float]
) -> Iterator[Comparison]:
    """All phases of one model in one quantization."""
    loaded = _load(backend, model, quantization)
    program = profile_program(loaded, list(PHASES))
    for phase in PHASES:
        inputs = step_inputs(phase, loaded.kv_spec.block_size, loaded.spec.vocab_size)
        program.executable.run(inputs)
        reads = [read_rate(backend)]
        seconds = []
        for _ in range(DECODE_REPEATS if phase.num_new == 1 else PREFILL_REPEATS):
            started = time.perf_counter()
            program.executable.run(inputs)
            seconds.append(time.perf_counter() - started)
        reads.append(read_rate(backend))
        read = statistics.mean(reads)
        now = replace(machine, read_bytes_per_s=read)
        engine = _engine_seconds(loaded, model, phase.num_streams, engines)
        yield Comparison(
            model,
            quantization,
            phase.name,
            phase.num_streams,
            phase.num_new,
            phase.depth,
            statistics.median(seconds) + engine,
            min(seconds) + engine,
            _predicted(loaded, now, quantization, phase),
            _predicted(loaded, machine, quantization, phase),
            read,
        )


def _predicted(loaded: LoadedEngine, machine: Machine, quantization: str, phase: Phase) -> float:
    model = step_model(loaded.spec, machine, Deployment(quantization=quantization))
    if phase.num_new == 1:
        return model.seconds(phase.num_streams, phase.depth)
    return model.seconds(0, 0, 1, phase.num_new, phase.depth)


def _engine_seconds(loaded: LoadedEngine, model: str, num_streams: int, known: dict[tuple[str, int], float]) -> float:
    """The engine's own work depends on the streams and the vocabulary alone: measured once for each."""
    key = model, num_streams
    if key not in known:
        phase = Phase("engine", num_streams, 1, SHALLOW)
        known[key] = engine_overhead(loaded, profile_program(loaded, [phase]), phase, time.perf_counter).total_s
    return known[key]


def _load(backend: CpuBackend, model: str, quantization: str) -> LoadedEngine:
    kind = {} if model == "embedded" else {"load_format": "dummy", "config": model}
    options = {"quantization": quantization, "num_threads": backend.num_threads, "max_model_len": MAX_MODEL_LEN}
    return load_engine(EngineConfig.from_options({**kind, **options, "max_num_seqs": 16, "num_kv_blocks": 2_100}))


def _line(one: Comparison) -> str:
    what = f"{one.model:14} {one.quantization:5} {one.phase:8} {one.streams:3} x {one.tokens:3} behind {one.depth:5}"
    return (
        f"{what}: measured {1e3 * one.measured_s:9.3f} ms (least {1e3 * one.least_s:9.3f}), "
        f"predicted {1e3 * one.predicted_s:9.3f} ({one.error:+.0%}; {one.error_before:+.0%} with the read rate of "
        f"the calibration), read {one.read_bytes_per_s / 1e9:.1f} GB/s"
    )


def summary(comparisons: list[Comparison]) -> str:
    """Medians of the errors' sizes."""
    lines = [f"{len(comparisons)} steps"]
    for name, errors in (
        ("with the read rate of the minute", [abs(one.error) for one in comparisons]),
        ("with that of the calibration", [abs(one.error_before) for one in comparisons]),
    ):
        ordered = sorted(errors)
        lines.append(
            f"{name}: median error {statistics.median(ordered):.1%}, 90% of them within "
            f"{ordered[int(0.9 * (len(ordered) - 1))]:.0%}, worst {ordered[-1]:.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
