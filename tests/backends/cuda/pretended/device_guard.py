"""Where torch looks up what makes a CUDA device the current one. CPU builds have nothing there, and refuse to index a
tensor that says it is on one; the guard of the meta device, which does nothing, takes the place."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

CUDA, META = 1, 14  # of c10::DeviceType
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # pointers by type of device


@contextmanager
def guarded() -> Iterator[None]:
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(library, REGISTRY)
    before = guards[CUDA]
    guards[CUDA] = guards[META]
    try:
        yield
    finally:
        guards[CUDA] = before
