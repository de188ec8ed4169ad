"""Triton reads TRITON_INTERPRET when it is imported, which any module of the backend may do: set it before them.

VIVACE_PTX_TARGET=80 (89, 90) compiles the kernels for that target instead, and executes their PTX (`ptx`)."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "ops"))  # cases of sampling that every backend is tested on

if find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available() and "VIVACE_PTX_TARGET" not in os.environ:
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_sessionfinish() -> None:
    """Into the file that VIVACE_PTX_REPORT names: a line for each compiled kernel that was executed."""
    report, launcher = os.environ.get("VIVACE_PTX_REPORT"), sys.modules.get("ptx.launcher")
    if report and launcher is not None:
        with Path(report).open("w") as lines:
            for (name, constants), opcodes in launcher.launched.items():
                line = {"kernel": name, "constants": dict(constants), "opcodes": sorted(opcodes)}
                lines.write(json.dumps(line) + "\n")
