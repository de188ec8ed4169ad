"""What each way of quantising costs in quality, on real checkpoints, measured by the engine that serves.

    PYTHONPATH=src python benches/quantize_quality.py [--shared ../shared] [--characters 24000] [--part 4]

For the embedded model and, where the shared folder has it, stories260K: perplexity and KL divergence from the float32
model, at 4 bits by every method with the same groups, at 8 bits, under a budget, and with planted outlier features
(tests/quantize/outlier_features.py). Calibration and measured text are different halves of the same text.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "quantize"))

from outlier_features import plant_outliers

from vivace.engine.llm import LLM
from vivace.evaluate.evaluation import sample_text
from vivace.evaluate.quality import measure_quality
from vivace.quantize.options import CALIBRATED_METHODS, quantize_options
from vivace.quantize.quantization import quantize_model
from vivace.resources import embedded_model_path

CALIBRATION_CHARACTERS = 150_000
WINDOW = 512


@dataclass(frozen=True)
class Subject:
    """A model, the text that it is calibrated on, the text that it is measured on."""

    name: str
    model: Path
    calibration: str
    heldout: str
    grouped_format: str = "compressed-tensors"  # "dense" where widths hold no whole groups: rounded, run in float32


def subjects(shared: Path) -> Iterator[Subject]:
    path = shared / "text" / "heldout.txt.xz"
    if path.is_file():
        with lzma.open(path, "rt", encoding="utf-8") as file:
            text = file.read(2 * CALIBRATION_CHARACTERS)
        yield Subject("embedded", embedded_model_path(), *_halves(text))
    else:
        yield Subject("embedded", embedded_model_path(), *_halves(sample_text()))
    stories = shared / "weights" / "stories260K"
    if stories.is_dir():
        text = (shared / "eval" / "tinystories_sample.txt").read_text(encoding="utf-8")
        yield Subject("stories260K", stories, *_halves(text), "dense")


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def four_bit_runs(group_sizes: list[int], format: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for group_size in group_sizes:
        for symmetric in (True, False):
            same = {"group_size": group_size, "symmetric": symmetric, "format": format}
            yield "rtn", same
            yield "gptq", same
            yield "gptq", same | {"act_order": True}
            yield "awq", same
    for target_bits in (4.5, 6.0) if group_sizes else ():
        yield "mixed", {"target_bits": target_bits, "format": format}


def eight_bit_runs() -> Iterator[tuple[str, dict[str, Any]]]:
    for method in ("w8a8", "smoothquant", "llm-int8"):
        yield method, {}


class Bench:
    """Measures one model's quantised forms against its float32 form."""

    def __init__(self, subject: Subject, model: Path, room: Path, arguments: argparse.Namespace) -> None:
        self.model, self.room, self.num_samples = model, room, arguments.num_samples
        self.text = subject.heldout[: arguments.characters]
        self.calibration = room / "calibration.txt"
        self.calibration.write_text(subject.calibration, encoding="utf-8")
        self.reference = LLM(str(model), quantization="f32", max_model_len=WINDOW)

    def run(self, method: str, given: dict[str, Any], label: str = "") -> None:
        is_calibrated = method in CALIBRATED_METHODS
        options = quantize_options(method, **given | ({"num_samples": self.num_samples} if is_calibrated else {}))
        started, output = time.perf_counter(), Path(tempfile.mkdtemp(dir=self.room)) / "out"
        data = str(self.calibration) if is_calibrated else None
        result = quantize_model(str(self.model), output, options, calibration=data)
        seconds = time.perf_counter() - started
        quality = measure_quality(LLM(str(output), max_model_len=WINDOW), self.reference, self.text)
        assert quality.reference_perplexity is not None
        assert quality.kl_divergence_mean is not None
        assert quality.top1_agreement is not None
        change = 100 * (quality.perplexity / quality.reference_perplexity - 1)
        settings = label or " ".join(f"{name}={value}" for name, value in given.items() if name != "format")
        print(
            f"{method:12}{settings:48}{result.mean_bits or 0:7.3f}{quality.perplexity:11.4f}{change:+8.2f}%"
            f"{quality.kl_divergence_mean:10.5f}{100 * quality.top1_agreement:8.2f}%{seconds:7.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[1] / ".." / "shared")
    parser.add_argument("--characters", type=int, default=24_000, help="of held-out text")
    parser.add_argument("--part", choices=["4", "8", "all"], default="all")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[128, 32])
    parser.add_argument("--num-samples", type=int, default=32, help="calibration windows of 512 tokens")
    parser.add_argument("--subject", choices=["embedded", "stories260K"], help="default: both")
    arguments = parser.parse_args()
    for subject in subjects(arguments.shared):
        if arguments.subject not in (None, subject.name):
            continue
        with tempfile.TemporaryDirectory() as room:
            bench = Bench(subject, subject.model, Path(room), arguments)
            head = f"{'method':12}{'settings':48}{'bits':>7}{'perplexity':>11}{'':9}{'KL':>10}{'top 1':>9}"
            print("", subject.name, head, sep="\n", flush=True)
            group_sizes = arguments.group_sizes if arguments.part != "8" else []
            for method, given in four_bit_runs(group_sizes, subject.grouped_format):
                bench.run(method, given)
            if arguments.part == "4":
                continue
            for method, given in eight_bit_runs():
                bench.run(method, given)
            planted = plant_outliers(subject.model, Path(room) / "planted", num_channels=2, factor=30.0, seed=1)
            bench = Bench(subject, planted, Path(room), arguments)
            for method, given in eight_bit_runs():
                bench.run(method, given, "2 planted outliers behind each norm, x 30")


if __name__ == "__main__":
    main()
