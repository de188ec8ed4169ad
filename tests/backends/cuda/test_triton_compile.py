"""Kernels compile for the targets without a device. `python tests/backends/cuda/aot_kernels.py` does all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton_interpreter  # noqa: F401  skips where torch or triton is missing

SCRIPT = Path(__file__).with_name("aot_kernels.py")
# A kernel of tensor cores and one without: compiling all takes a minute a target.
KERNELS = ("int4_g32 product 16", "coded rms_norm fp8")


@pytest.mark.skipif(sys.platform != "linux", reason="triton's compiler and ptxas are for Linux")
def test_kernels_compile_without_a_device(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(SCRIPT), "--targets", "80,89,90", "--only", *KERNELS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["target"] for line in lines} == {"sm_80", "sm_89", "sm_90"}
    assert len(lines) == 3 * len(KERNELS)
    for line in lines:
        assert line["cubin_bytes"] > 0
        assert line["ptx_bytes"] > 0
        assert line["spilled_bytes"] == 0
        assert 0 < line["registers"] <= 255
