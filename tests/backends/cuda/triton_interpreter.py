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


def _nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (np.where(np.isnan(values), bits | np.uint32(0x400000), rounded) >> np.uint32(16)).astype(np.uint16)


def _make_bfloat16_a_number() -> None:
    """Triton 3.9's interpreter multiplies the bits of bfloat16 matrices as integers, and cuts float32 off to bfloat16
    where a device rounds to the nearest."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, _widened(a), _widened(b), *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar.name == "fp32" and target.scalar.name == "bf16":
            return TensorHandle(_nearest_bfloat16(np.asarray(source.data)), target.scalar)
        return cast(self, source, target)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl


if not HAS_DEVICE:
    _make_bfloat16_a_number()
