"""Where kernels run in tests: on the device if there is one, else in Triton's interpreter; where VIVACE_PTX_TARGET
names a target, compiled for it and executed as PTX.

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
PTX_TARGET = int(os.environ.get("VIVACE_PTX_TARGET", "0"))
CONVERTS_FP8 = PTX_TARGET == 0 or PTX_TARGET >= 89  # and multiplies it
IS_INTERPRETED = not HAS_DEVICE and not PTX_TARGET
if IS_INTERPRETED:
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
    import triton.language as language
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast, subtract = (getattr(InterpreterBuilder, name) for name in ("create_dot", "cast_impl", "create_fsub"))

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, _widened(a), _widened(b), *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar.name == "fp32" and target.scalar.name == "bf16":
            return TensorHandle(_nearest_bfloat16(np.asarray(source.data)), target.scalar)
        return cast(self, source, target)

    def create_fsub(self: Any, a: Any, b: Any) -> Any:
        if a.dtype.scalar.name != "bf16":
            return subtract(self, a, b)
        return TensorHandle(_nearest_bfloat16(_widened(a).data - _widened(b).data), a.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_fsub = create_fsub
    if not hasattr(InterpreterBuilder, "get_bf16"):  # before Triton 3.7 it has no numbers of this type
        InterpreterBuilder.get_bf16 = lambda self, value: cast_impl(self, self.get_fp32(value), language.bfloat16)


class _Results:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def get_result(self, _: int) -> Any:
        return self._handle


def _run_assembly(_: Any, text: str, constraints: str, values: list[Any], types: list[Any], *rest: Any) -> _Results:
    """The instructions that the kernels use, as the PTX manual defines them, on pairs of 16 bits in one register:
    `shr.b32 to, from, bits`, `shl.b32`, and `lop3.b32 to, a, b, c, table`, where bit 4 a + 2 b + c of the table is
    the result."""
    from triton.runtime.interpreter import TensorHandle

    assert constraints in ("=r,r", "=r,r,r")
    assert rest == (True, 2)
    registers = {f"${1 + at}": np.ascontiguousarray(one.data).view(np.uint32) for at, one in enumerate(values)}
    for instruction in filter(None, (part.strip() for part in text.strip("{} ").split(";"))):
        name, _, operands = instruction.partition(" ")
        target, *sources = (operand.strip() for operand in operands.split(","))
        if name != ".reg":
            read = [registers[one] if one in registers else np.uint32(int(one)) for one in sources]
            registers[target] = ASSEMBLY[name](*read)
    result = registers["$0"].view(np.float16 if types[0].scalar.name == "fp16" else np.uint16)
    return _Results(TensorHandle(result, types[0].scalar))


def _lop3(a: Any, b: Any, c: Any, table: np.uint32) -> np.ndarray:
    result = np.zeros_like(a)
    for index in range(8):
        if int(table) >> index & 1:
            terms = (value if index >> bit & 1 else ~value for value, bit in ((a, 2), (b, 1), (c, 0)))
            result |= np.bitwise_and.reduce(np.broadcast_arrays(*terms))
    return result


ASSEMBLY = {"shr.b32": np.right_shift, "shl.b32": np.left_shift, "lop3.b32": _lop3}


def _make_assembly_run() -> None:
    """Triton's interpreter has no inline assembly."""
    from triton.runtime.interpreter import InterpreterBuilder

    InterpreterBuilder.create_inline_asm = _run_assembly


def _make_scalars_indices() -> None:
    """Before Triton 3.7 they are arrays of one element, which NumPy 2.5 makes no integer of."""
    interpreter = sys.modules["triton.runtime.interpreter"]
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *rest: Any) -> None:
        patch(tensor, *rest)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _prepare_the_language_once() -> None:
    """Triton 3.9's interpreter looks through its whole language, and replaces it, whenever a kernel calls a function:
    a quarter of the time of a test. The first call of a launch does for all others that see the same modules."""
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):
        return
    language = sys.modules["triton.language"]
    prepare, prepared = interpreter._patch_lang, set[str]()

    class Launch(interpreter._LangPatchScope):  # type: ignore[misc]
        def restore(self) -> None:
            prepared.clear()
            super().restore()

    def prepare_once(function: Any) -> Any:
        seen = function.__globals__.values()
        modules = {one.__name__ for one in (language, language.core) if any(value is one for value in seen)}
        if modules and modules <= prepared:
            return None  # within a launch: nobody restores what a function of a kernel has prepared
        is_launch = not prepared
        changes = prepare(function)._changes
        prepared.update(modules)
        if not is_launch:
            return None
        launch = Launch()
        launch._changes = changes
        return launch

    interpreter._patch_lang = prepare_once


if PTX_TARGET:
    from ptx.launcher import install

    install(PTX_TARGET)
if IS_INTERPRETED:
    _make_bfloat16_a_number()
    _make_scalars_indices()
    _make_assembly_run()
    _prepare_the_language_once()
