"""Compiles the kernels for named targets and executes their PTX in the tests of what they compute; no device needed.

Says which of the variants of `aot_kernels` were executed for each target and which were not. `--targets 80,89,90`
chooses; `--tests` are arguments of pytest. All of them for one target take some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FILES = ("attention", "products", "rows", "sampling", "storage", "executable")
SAMPLING = ("draw_row", "rank_row")  # launched behind a step, whose end they need no help to see
ALL = [*(str(FOLDER / f"test_triton_{name}.py") for name in FILES), str(FOLDER / "test_production_tiles.py")]


def execute(
    target: int, tests: list[str], folder: Path, timeout: float | None = None
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """pytest's end, and the kernels that were executed: names, constants and opcodes. A child process, because
    Triton chooses between its interpreter and its compiler when it is imported."""
    report = folder / f"executed_{target}.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"VIVACE_PTX_TARGET": str(target), "VIVACE_PTX_REPORT": str(report)}
    environment |= {"TRITON_CACHE_DIR": str(folder / "triton"), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # tensors are the CPU's
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    lines = report.read_text().splitlines() if report.exists() else []
    return done, [json.loads(line) for line in lines]


def uncovered(target: int, executed: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Variants of `aot_kernels` whose constants no kernel had that was executed; and how many there are."""
    from aot_kernels import OPTIONS, runs_on, variants

    names, total = [], 0
    for variant in variants():
        if runs_on(variant, target):
            total += 1
            options = {name: value for name, value in variant.options.items() if name in OPTIONS[:2]}
            options["launch_pdl"] = target >= 90 and variant.kernel.__name__ not in SAMPLING
            wanted = {name: str(value) for name, value in (variant.constants | options).items()}
            if not any(
                one["kernel"] == variant.kernel.__name__ and wanted.items() <= one["constants"].items()
                for one in executed
            ):
                names.append(variant.name)
    return names, total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="80,89,90")
    parser.add_argument("--tests", nargs="*", default=ALL)
    options = parser.parse_args()
    failed = 0
    for target in map(int, options.targets.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            done, executed = execute(target, options.tests, Path(folder))
        failed |= done.returncode
        missing, total = uncovered(target, executed)
        sys.stdout.write(f"{done.stdout}\nsm_{target}: {total - len(missing)} of {total} variants executed\n")
        sys.stdout.write("".join(f"  not {name}\n" for name in missing))
    return failed


if __name__ == "__main__":
    sys.exit(main())
