"""Kernels compile for the targets without a device. `python tests/backends/cuda/aot_kernels.py` does all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton_interpreter  # noqa: F401  skips where torch or triton is missing

SCRIPT = Path(__file__).with_name("aot_kernels.py")
# A kernel of tensor cores and one without: compiling all takes a minute a target.
KERNELS = ("int4_g32 product 16", "coded rms_norm bf16 4096 fp8")


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton's compiler and ptxas are for Linux")


def compiled(folder: Path, targets: str, *names: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(SCRIPT), "--targets", targets, "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_compile_without_a_device(tmp_path: Path) -> None:
    lines = compiled(tmp_path, "80,89,90", *KERNELS)
    assert {line["target"] for line in lines} == {"sm_80", "sm_89", "sm_90"}
    assert len(lines) == 3 * len(KERNELS)
    for line in lines:
        assert line["cubin_bytes"] > 0
        assert line["ptx_bytes"] > 0
        assert line["spilled_bytes"] == 0
        assert 0 < line["registers"] <= 255
        assert line["waits_first"] == (line["target"] == "sm_90")  # launches overlap there


def test_a_norm_and_its_codes_sum_in_the_same_order(tmp_path: Path) -> None:
    """Each thread has the same columns of the row in both kernels: so their bits are equal on a device."""
    plain: dict[str, list[str]] = {}
    for line in compiled(tmp_path, "90", "rms_norm"):
        name = line["kernel"]
        assert len(line["float_sums"]) == 1, name
        if name.startswith("rms_norm"):
            plain[name] = line["float_sums"]
        else:
            kind, _ = name.removeprefix("coded ").rsplit(" ", 1)
            assert line["float_sums"] == plain[kind], name
    assert len(plain) == 3


def test_a_gated_activation_and_its_codes_round_every_operation(tmp_path: Path) -> None:
    """The same operations on each number, none fused into another with one rounding: equal bits on a device."""
    lines = compiled(tmp_path, "90", "gated_activation")
    assert len(lines) == 5
    assert all(line["fused_products"] == 0 for line in lines)
