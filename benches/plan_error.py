"""How far predictions are from steps that were not used in the calibration.

    python benches/plan_error.py --calibrate          # about 90 s; once a machine
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
from dataclasses import asdict
from pathlib import Path

from vivace.backends.cpu.backend import CpuBackend
from vivace.bench.profile_step import Phase
from vivace.plan.confirmation import Confirmation, calibrate_confirmed, confirm
from vivace.plan.this_machine import calibrated_machine, load_calibration

MODELS = ("embedded", "qwen2.5-0.5b", "llama-3.2-1b")
QUANTIZATIONS = ("int4", "int8", "bf16")
PHASES = (
    *(Phase("decode", streams, 1, depth) for streams in (1, 4, 16) for depth in (128, 2_000)),
    *(Phase("prefill", 1, tokens, 0) for tokens in (128, 512)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", action="store_true", help="measure this machine first, and keep the result")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--quantizations", nargs="*", default=QUANTIZATIONS)
    parser.add_argument("--output", type=Path, help="append the steps to a file, one JSON object a line")
    options = parser.parse_args()
    backend = CpuBackend()
    if options.calibrate:
        print(calibrate_confirmed(backend).efficiency.checked)
        return
    calibration = load_calibration(backend)
    if calibration is None:
        sys.exit("this machine is not calibrated: run with --calibrate first")
    models = [(model, quantization) for model in options.models for quantization in options.quantizations]
    found: list[Confirmation] = []
    for one in confirm(
        backend, calibrated_machine(backend, calibration), time.perf_counter, models=models, phases=PHASES
    ):
        found.append(one)
        print(_line(one), flush=True)
    print(summary(found))
    if options.output is not None:
        with options.output.open("a") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in found)


def _line(one: Confirmation) -> str:
    what = f"{one.model:14} {one.quantization:5} {one.phase:8} {one.streams:3} x {one.tokens:3} behind {one.depth:5}"
    return (
        f"{what}: measured {1e3 * one.measured_s:9.3f} ms (least {1e3 * one.least_s:9.3f}), "
        f"predicted {1e3 * one.predicted_s:9.3f} ({one.error:+.0%}; {one.error_before:+.0%} with the read rate of "
        f"the calibration), read {one.read_bytes_per_s / 1e9:.1f} GB/s"
    )


def summary(found: list[Confirmation]) -> str:
    """Medians of the errors' sizes."""
    lines = [f"{len(found)} steps"]
    for name, errors in (
        ("with the read rate of the minute", [abs(one.error) for one in found]),
        ("with that of the calibration", [abs(one.error_before) for one in found]),
    ):
        ordered = sorted(errors)
        lines.append(
            f"{name}: median error {statistics.median(ordered):.1%}, 90% of them within "
            f"{ordered[int(0.9 * (len(ordered) - 1))]:.0%}, worst {ordered[-1]:.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
