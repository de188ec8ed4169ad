"""Where kernels run in tests: on the device if there is one, else in Triton's interpreter.

Import it before anything that imports triton: decorators read the variable.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the kernels take torch tensors")

HAS_DEVICE = torch.cuda.is_available()
if not HAS_DEVICE:
    assert "triton" not in sys.modules or os.environ.get("TRITON_INTERPRET") == "1", "triton was imported too early"
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="triton is not installed: its kernels are not tested")
torch.set_num_threads(1)

DEVICE = torch.device("cuda" if HAS_DEVICE else "cpu")


def _widened(handle: Any) -> Any:
    """The interpreter keeps a bfloat16 as 16 bits of an integer."""
    interpreter = sys.modules["triton.runtime.interpreter"]
    if handle.dtype.scalar.name != "bf16":
        return handle
    values = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(values, sys.modules["triton.language"].float32)


def _let_it_multiply_bfloat16() -> None:
    """Triton 3.9's interpreter multiplies the bits of bfloat16 matrices as integers: widen them, which is exact."""
    from triton.runtime import interpreter

    of_triton = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return of_triton(self, _widened(a), _widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


if not HAS_DEVICE:
    _let_it_multiply_bfloat16()
